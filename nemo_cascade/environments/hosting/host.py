"""One process of environments: each sample's world is kept here between its turns.

What an environment does follows from its task and the turns alone. So a host that has no world of a sample (it took the
place of one that was ended) makes one and plays the turns again.
"""

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.environments.environment import Environment, make_environment
from nemo_cascade.environments.hosting.messages import (
    MOST_DETAIL,
    Answer,
    Forget,
    Hello,
    Order,
    Ready,
    Tick,
    sound_step,
    sound_tokens,
)
from nemo_cascade.rewards import sandboxed
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.types import FinishReason, Place, Trajectory

TICK_S = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass
class _World:
    """A sample's environment, and how many turns it has seen."""

    environment: Environment
    turns: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)


class Host:
    """Serves orders until the connection closes.

    Args:
        connection: to the driver.
        hello: what it begins with.
    """

    def __init__(self, connection: Connection, hello: Hello) -> None:
        self._connection, self._sending, self._process = connection, threading.Lock(), os.getpid()
        self._tokenizer: Any = None if hello.tokenizer is None else load_tokenizer(hello.tokenizer)
        self._worlds: dict[Place, _World] = {}
        self._threads = ThreadPoolExecutor(hello.threads, "environment")

    def serve(self) -> None:
        """Obey until nobody orders any more."""
        threading.Thread(target=self._tick, name="tick", daemon=True).start()
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                return
            if isinstance(order, Forget):
                for place in order.places:
                    self._worlds.pop(place, None)
            else:
                self._threads.submit(self._obey, order)

    def _obey(self, order: Order) -> None:
        with Attempt(BaseException) as attempt:  # an environment may raise whatever it likes
            if order.said is None:
                value: Any = self._start(order)
            else:
                value = sound_step(self._step(order, order.said), order.most)
            answer = Answer(order.serial, value)
        if (error := attempt.error) is not None:
            answer = Answer(order.serial, problem=f"{type(error).__name__}: {error}"[:MOST_DETAIL])
        self.tell(answer)

    def _start(self, order: Order) -> Any:
        world = _World(make_environment(order.task.environment, self._tokenizer))
        first = sound_tokens(world.environment.start(order.task), order.most)
        self._worlds[order.place] = world
        return first

    def _step(self, order: Order, said: Trajectory) -> Any:
        played = turn_by_turn(said)
        world = self._worlds.get(order.place)
        if world is None or world.turns != len(played) - 1:
            self._start(order)
            world = self._worlds[order.place]
            for earlier in played[:-1]:
                world.environment.step(earlier)
        world.turns = len(played)
        return world.environment.step(said)

    def _tick(self) -> None:
        while True:
            self.tell(Tick())
            time.sleep(TICK_S)

    def tell(self, what: Any) -> None:
        """Send something; where nobody listens any more, end. A copy that an environment forked has no say."""
        if os.getpid() != self._process:
            os._exit(0)
        try:
            with self._sending:
                self._connection.send(what)
        except (OSError, ValueError):
            os._exit(0)


def turn_by_turn(said: Trajectory) -> list[Trajectory]:
    """Return what an environment was handed after each turn of a sample, oldest first, the whole sample last."""
    handed: list[Trajectory] = []
    earlier: tuple[Trajectory, ...] = ()
    for part in said.parts:
        for count in range(1, len(part.turns) + 1):
            turns = part.turns[:count]
            sampled = sum(turn.num_sampled for turn in turns)
            whole = count == len(part.turns)
            reason = part.finish_reason if whole else FinishReason.STOP
            tokens, logprobs = part.token_ids[: turns[-1].end], part.sampled_logprobs[:sampled]
            made = replace(part, token_ids=tokens, turns=turns, sampled_logprobs=logprobs, finish_reason=reason)
            handed.append(replace(made, earlier=earlier))
        earlier = (*earlier, replace(part, earlier=()))
    return handed


def main(arguments: list[str]) -> None:
    """Serve on the inherited socket; arguments: its descriptor, the parent's process id."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What a process that an environment started leaves behind becomes this one's child, and is found with it.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != int(arguments[1]):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(socket.socket(fileno=int(arguments[0])).detach())
    hello: Hello = connection.recv()
    sys.path[:] = hello.path
    logging.disable(logging.INFO)
    resource.setrlimit(resource.RLIMIT_AS, (hello.memory_mib << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sandboxed.configure(hello.sandbox)
    with Attempt(Exception) as attempt:
        host = Host(connection, hello)
    if attempt.error is not None:  # told to the driver, who raises it
        connection.send(Ready(f"{type(attempt.error).__name__}: {attempt.error}"))
        return
    host.tell(Ready())
    host.serve()
    os._exit(0)  # whatever its threads are at


if __name__ == "__main__":
    main(sys.argv[1:])
