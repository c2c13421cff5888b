"""One host as a process: started, spoken with, and ended with everything below it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from nemo_cascade.environments.hosting.messages import Hello
from nemo_cascade.processes import janitor
from nemo_cascade.sandbox.inside.foreign import Attempt

_DEATH_DEADLINE_S = 10.0


class HostProcess:
    """A process that runs `host.py`.

    Args:
        hello: what it begins with; its `path` is filled in.

    Attributes:
        connection: to it.
        born: when it was started, monotonic seconds.
        heard: when it last said anything.
        ready: it has said that it is.
    """

    def __init__(self, hello: Hello) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid())]
            command = [sys.executable, "-m", "nemo_cascade.environments.hosting.host", *arguments]
            # The package is found as it was found here; a session of its own keeps the terminal's Ctrl-C away.
            variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=variables, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.connection = Connection(ours.detach())
        self.born = self.heard = time.monotonic()
        self.ready = False
        self.send(replace(hello, path=list(sys.path)))

    def send(self, what: Any) -> None:
        """Tell it something; one that is gone is found out by listening."""
        with contextlib.suppress(OSError):
            self.connection.send(what)

    def recv(self) -> Any | None:
        """Return what it says; None where it is gone, or says what can't be read."""
        with Attempt(Exception):  # an environment may have written into its socket
            said = self.connection.recv()
            self.heard = time.monotonic()
            return said
        return None

    def has_others_below(self) -> bool:
        """Tell whether processes live below it."""
        return bool(janitor.descendants(self._process.pid))

    def exit_words(self) -> str:
        """Return how it ended, once it is gone."""
        try:
            status = self._process.wait(_DEATH_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return "it broke its connection"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def end(self) -> None:
        """End it and everything below it, whatever they do."""
        pid = self._process.pid
        if self._process.poll() is None:
            # Stopped it starts nothing new, and takes in the orphans of those that are killed below it.
            os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + _DEATH_DEADLINE_S
            while (below := janitor.descendants(pid)) and time.monotonic() < deadline:
                janitor.kill(below)
                time.sleep(0.01)
            self._process.kill()
        self._process.wait()
        self.connection.close()
