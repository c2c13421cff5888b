"""Actors that behave badly, in a module that their processes can import."""

import ctypes
import os
import signal
import subprocess
import sys
import time

from nemo_cascade.actors.actor import Actor
from nemo_cascade.errors import RolloutError


class StubbornActor(Actor):
    """Has a child process, and can hold the interpreter lock so that not even its own threads run."""

    def start_child(self):
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    def hold_the_lock(self):
        ctypes.PyDLL(None).sleep(600)


class MisbehavingActor(Actor):
    """Does what it is told, which is not always good."""

    def behave(self, how, index, victim):
        if index != victim:
            return index
        if how == "raise":
            raise RolloutError("too long", value=7, limit=5, mend="shorten it")
        if how == "crash":
            raise ZeroDivisionError("no type of ours")
        if how == "die":
            print("the device fell off the bus", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.sleep_for_ever()

    def visible_gpus(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]

    def variable(self, name):
        return os.environ.get(name)

    def sleep_for_ever(self):
        time.sleep(600)
