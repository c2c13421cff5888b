"""All hosts of a run, from the driver's side: who does what, until when, and what becomes of those that don't.

Every order ends: with its answer, with what its environment raised, or at its deadline. What goes over it can't be
stopped inside of its process, so the process is ended with everything below it, and what else was under way is done
again in its successor. Where a process ends by itself it isn't known whose doing it was:
what was under way is done again, each alone, and who brings a process down alone is told so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from queue import Empty, SimpleQueue
from typing import Any

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.environment import Step
from nemo_cascade.environments.hosting.messages import Answer, Forget, Hello, Order, Ready
from nemo_cascade.environments.hosting.process import HostProcess
from nemo_cascade.errors import RolloutError
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.types import Int32, Place, Task, Trajectory

log = logging.getLogger(__name__)

START_DEADLINE_S = 600.0
# A process that is silent for so long doesn't even let its own threads speak.
SILENCE_S = 5.0


class EnvironmentFailedError(Exception):
    """An environment gave no step: kind `timeout`, `crash`, or `environment` (it raised, or gave something else)."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass
class _Errand:
    """An order on its way."""

    order: Order
    deadline_s: float
    future: Future[Any]
    host: int
    crashes: int = 0
    sent_at: float = 0.0


@dataclass
class _Host:
    """One place for a process, and what waits for it."""

    waiting: deque[_Errand] = field(default_factory=deque)
    running: dict[int, _Errand] = field(default_factory=dict)
    process: HostProcess | None = None
    strange: bool = False


class EnvironmentHosts:
    """The hosts. Thread-safe; they start when first needed. Close them, or use it as a context manager.

    Args:
        config: how many, and of what size.
        tokenizer: folder of the policy's tokenizer; None: environments get none.
        sandbox: of programs that environments run.

    Attributes:
        ended: processes that had to be ended, or ended by themselves.
    """

    def __init__(self, config: EnvironmentProcessesConfig, tokenizer: str | None, sandbox: SandboxConfig) -> None:
        self._config, self._tokenizer, self._sandbox = config, tokenizer, sandbox
        self._hosts = [_Host() for _ in range(config.processes)]
        self._homes: dict[Place, int] = {}
        self._serial, self.ended = 0, 0
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._wake_read, self._wake_write = Pipe(duplex=False)
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> EnvironmentHosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, task: Task, sample: int, most: int, deadline_s: float) -> Future[Int32]:
        """Have a sample started; its first tokens are to come."""
        return self._send((task.task_id, sample), task, None, most, deadline_s)

    def step(self, task: Task, said: Trajectory, most: int, deadline_s: float) -> Future[Step]:
        """Have a sample's environment answer its last turn.

        Args:
            task: the sample's.
            said: all its turns.
            most: tokens of an observation that are of any use.
            deadline_s: from when a host takes it up.
        """
        # Experts are of no interest to an environment, and most of what a trajectory weighs.
        earlier = tuple(replace(part, routed_experts=None) for part in said.earlier)
        told = replace(said, routed_experts=None, earlier=earlier)
        return self._send(said.place, task, told, most, deadline_s)

    def forget(self, places: Iterable[Place]) -> None:
        """Drop samples; what was left running by environments of a user's own is ended."""
        self._tell(Forget(list(places)))

    def close(self) -> None:
        """End all processes with everything below them; what is under way fails."""
        self._closed = True
        if self._thread is not None:
            self._tell(None)
            self._thread.join()
        self._wake_write.close()
        self._wake_read.close()

    def _send(self, place: Place, task: Task, said: Trajectory | None, most: int, deadline_s: float) -> Future[Any]:
        if self._closed:
            raise RolloutError("the environments are closed")
        self._serial += 1
        future: Future[Any] = Future()
        home = self._homes.setdefault(place, len(self._homes) % len(self._hosts))
        self._tell(_Errand(Order(self._serial, place, task, said, most), deadline_s, future, home))
        return future

    def _tell(self, what: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="environments", daemon=True)
            self._thread.start()
        self._told.put(what)
        self._wake_write.send_bytes(b".")

    def _serve(self) -> None:
        try:
            with Attempt(BaseException) as attempt:
                while self._take_orders():
                    for host in self._hosts:
                        self._dispatch(host)
                    for connection in wait(self._connections(), self._patience()):
                        self._hear(connection)
                    for host in self._hosts:
                        self._enforce(host)
            if attempt.error is not None:
                log.error("the environments' own thread failed", exc_info=attempt.error)
                self._fail_all(attempt.error)
        finally:
            for host in self._hosts:
                if host.process is not None:
                    host.process.end()
            self._fail_all(RolloutError("the environments are closed"))

    def _take_orders(self) -> bool:
        while True:
            try:
                told = self._told.get_nowait()
            except Empty:
                return True
            if told is None:
                return False
            if isinstance(told, Forget):
                self._drop(told)
            else:
                self._hosts[told.host].waiting.append(told)

    def _drop(self, told: Forget) -> None:
        for place in told.places:
            self._homes.pop(place, None)
        for host in self._hosts:
            if host.process is None:
                continue
            if host.strange and not host.running and host.process.has_others_below():
                self._end(host)  # whatever it started goes on otherwise
            else:
                host.process.send(told)

    def _dispatch(self, host: _Host) -> None:
        if host.waiting and host.process is None:
            size = (self._config.threads, self._config.memory_mib)
            host.process = HostProcess(Hello([], self._tokenizer, *size, self._sandbox))
        while host.waiting and host.process is not None and host.process.ready and self._has_room(host):
            errand = host.waiting.popleft()
            # From here on nobody can cancel it, and what is done again was here before.
            if not errand.future.running() and not errand.future.set_running_or_notify_cancel():
                continue
            errand.sent_at = time.monotonic()
            host.running[errand.order.serial] = errand
            host.strange |= is_plugin(errand.order.task.environment.name)
            host.process.send(errand.order)

    def _has_room(self, host: _Host) -> bool:
        """Tell whether the next one may begin: a suspect is alone, as long as it runs."""
        if host.waiting[0].crashes or any(errand.crashes for errand in host.running.values()):
            return not host.running
        return len(host.running) < self._config.threads

    def _connections(self) -> list[Connection]:
        return [self._wake_read, *(host.process.connection for host in self._hosts if host.process is not None)]

    def _patience(self) -> float | None:
        """Return how long to wait for news: until the next deadline."""
        ends = [e.sent_at + e.deadline_s for host in self._hosts for e in host.running.values()]
        ends += [
            h.process.born + START_DEADLINE_S for h in self._hosts if h.process is not None and not h.process.ready
        ]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _hear(self, connection: Any) -> None:
        if connection is self._wake_read:
            self._wake_read.recv_bytes()
            return
        host = next(h for h in self._hosts if h.process is not None and h.process.connection is connection)
        assert host.process is not None
        said = host.process.recv()
        if said is None:
            self._crashed(host)
        elif isinstance(said, Ready):
            if said.problem:
                raise RolloutError("a process for environments can't begin", value=said.problem)
            host.process.ready = True
        elif isinstance(said, Answer) and (errand := host.running.pop(said.serial, None)) is not None:
            if said.problem:
                errand.future.set_exception(EnvironmentFailedError("environment", said.problem))
            else:
                errand.future.set_result(said.value)

    def _crashed(self, host: _Host) -> None:
        """Do again, each alone, what was under way in a process that ended; who was alone did it."""
        assert host.process is not None
        alone = len(host.running) == 1
        told = f"its process ended ({host.process.exit_words()})"
        self._end(host)
        for errand in reversed(self._taken_back(host)):
            errand.crashes += 1
            if alone and errand.crashes > 1:
                errand.future.set_exception(EnvironmentFailedError("crash", told))
            else:
                host.waiting.appendleft(errand)

    def _enforce(self, host: _Host) -> None:
        now, process = time.monotonic(), host.process
        if process is None:
            return
        if not process.ready:
            if now > process.born + START_DEADLINE_S:
                raise RolloutError("a process for environments doesn't begin", limit=f"{START_DEADLINE_S:g} s")
            return
        late = sorted((e.sent_at + e.deadline_s, s) for s, e in host.running.items() if now > e.sent_at + e.deadline_s)
        if not late:
            return
        # One that lets no other thread run makes all others late, too: only the first is blamed then.
        blamed = {serial for _, serial in (late if now - process.heard < SILENCE_S else late[:1])}
        self._end(host)
        for errand in reversed(self._taken_back(host)):
            if errand.order.serial in blamed:
                told = f"a step of the environment took longer than {errand.deadline_s:g} s"
                errand.future.set_exception(EnvironmentFailedError("timeout", told))
            else:
                host.waiting.appendleft(errand)

    def _taken_back(self, host: _Host) -> list[_Errand]:
        taken = list(host.running.values())
        host.running.clear()
        return taken

    def _end(self, host: _Host) -> None:
        assert host.process is not None
        host.process.end()
        host.process, host.strange = None, False
        self.ended += 1

    def _fail_all(self, error: BaseException) -> None:
        self._closed = True
        for host in self._hosts:
            for errand in (*host.running.values(), *host.waiting):
                if not errand.future.done():
                    errand.future.set_exception(error)
