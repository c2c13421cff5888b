"""The thread that feeds a pool's workers, enforces deadlines and replaces what died."""

import logging
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.errors import CascadeError, RewardError
from nemo_cascade.rewards.pool.processes import ForkServer, Task, Worker
from nemo_cascade.rewards.pool.wire import Reply, take_replies
from nemo_cascade.rewards.registry import VerifierUse, verifier_path
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.types import Verdict

_log = logging.getLogger(__name__)
_FORK_SERVER_DEADLINE_S = 120.0
# Processes that may die by themselves within the window; over it something is wrong with all of them.
_CRASH_BUDGET, _CRASH_WINDOW_S = 32, 60.0
_MAX_ATTEMPTS = 2
# SIGKILL comes from outside (an operator, the out-of-memory killer) and seldom says anything about the sample.
_MAX_ATTEMPTS_KILLED = 3


class Dispatcher(threading.Thread):
    """Owns all processes of a pool; everything below `run` happens in this thread.

    A task is written to one idle worker at a time. It ends by the worker's reply; by its deadline (the worker is
    killed: error `timeout`); or by the worker's death (one retry in a fresh worker, two if it was SIGKILL from outside;
    then error `crash`). A worker is forked when a task waits for one, up to `reward.workers` of them.

    Args:
        config: the pool's settings.
        sandbox: how verifiers run programs.
        paths: verifier name -> `module:class`.
        lock: guards `sink`s, `unfinished` and `failure`; notified when any of them changes.
    """

    def __init__(
        self, config: RewardConfig, sandbox: SandboxConfig, paths: Mapping[str, str], lock: threading.Condition
    ) -> None:
        super().__init__(name="verifier-pool", daemon=True)
        self.unfinished = 0
        self.unfinished_bytes = 0
        self.failure: CascadeError | None = None
        self._config, self._sandbox, self._paths, self._lock = config, sandbox, paths, lock
        self._inbox: deque[Task | tuple[VerifierUse, Future[None]]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._queue: deque[Task] = deque()
        self._workers: dict[int, Worker] = {}  # by ticket
        self._next_ticket = 0
        self._loads: dict[VerifierUse, Future[None]] = {}  # in the order of loading; done or not
        self._crashes: deque[float] = deque()
        self._asked: deque[float] = deque()  # when each unanswered order was given to the fork server
        self._server: ForkServer | None = None
        self._closing = False
        self._ended = False

    # -- called from other threads ---------------------------------------------------------------------------------

    def post(self, item: Task | tuple[VerifierUse, Future[None]]) -> None:
        """Hand over a task or a verifier to load.

        Raises:
            RewardError: the thread has ended.
        """
        with self._lock:
            if self._ended:
                raise self.failure or RewardError("the verifier pool is closed")
            self._inbox.append(item)
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """End the thread and all processes, and wait for that."""
        with self._lock:
            self._closing = True
            if not self._ended:
                os.eventfd_write(self._wake, 1)
        self.join()

    # -- this thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to end; any failure is kept for the callers and ends the processes."""
        try:
            with Attempt(BaseException) as attempt:
                self._selector.register(self._wake, selectors.EVENT_READ)
                self._start_server()
                while not self._closing:
                    self._turn()
            if isinstance(attempt.error, CascadeError):
                self._fail(attempt.error)
            elif attempt.error is not None:
                self._fail(RewardError("the verifier pool broke", value=repr(attempt.error)))
                raise attempt.error
        finally:
            self._tear_down()

    def _turn(self) -> None:
        for key, events in self._selector.select(self._patience()):
            if key.data is None:
                self._read_inbox()
            elif isinstance(key.data, ForkServer):
                if key.data is self._server:
                    self._hear_server()
            elif key.data.channel.fileno() >= 0:
                self._hear_worker(key.data, events)
        self._enforce_deadlines()
        self._assign()

    def _patience(self) -> float | None:
        due = [w.task.started + w.task.deadline_s for w in self._workers.values() if w.task and not w.killed_for]
        if self._asked:
            due.append(self._asked[0] + _FORK_SERVER_DEADLINE_S)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _read_inbox(self) -> None:
        os.eventfd_read(self._wake)
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Task):
                self._queue.append(item)
            elif item[0] in self._loads:
                _chain(self._loads[item[0]], item[1])
            else:
                self._loads[item[0]] = item[1]
                self._order_load(item[0])

    # -- processes -------------------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        self._server = ForkServer(self._config, self._sandbox)
        self._selector.register(self._server.control, selectors.EVENT_READ, self._server)
        for use in self._loads:
            self._order_load(use)

    def _order_load(self, use: VerifierUse) -> None:
        assert self._server is not None
        self._server.load(use.label, verifier_path(use.name, self._paths), use.options)
        self._asked.append(time.monotonic())
        for worker in self._workers.values():  # forked before, so they lack it
            self._retire_when_idle(worker)

    def _retire_when_idle(self, worker: Worker) -> None:
        worker.retiring = True
        if worker.task is None and worker.channel.fileno() >= 0:
            self._selector.unregister(worker.channel)
            worker.channel.close()  # end of stream: it exits

    def _fork_worker(self) -> None:
        assert self._server is not None
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        worker = Worker(self._server.fork(ticket))
        self._workers[ticket] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._asked.append(time.monotonic())

    def _hear_server(self) -> None:
        assert self._server is not None
        received = self._server.message()
        if received is None:
            self._replace_server()
            return
        message, descriptors = received
        if message["op"] == "loaded":
            self._asked.popleft()
            self._note_load(message["name"], message["error"], message["needs_s"])
        elif message["op"] == "forked":
            self._asked.popleft()
            worker = self._workers[message["ticket"]]
            worker.pid, worker.pidfd = message["pid"], descriptors[0]
        else:
            self._bury(message["pid"], message["status"])

    def _note_load(self, label: str, problem: str | None, needs_s: float) -> None:
        use = next(use for use in self._loads if use.label == label)
        deadline_s = deadline_of(self._config, use.name)
        error = None
        if problem is not None:
            error = RewardError("a verifier can't be loaded", value=problem)
        elif needs_s >= deadline_s:
            error = RewardError(
                "a verifier's own limits don't fit into its deadline",
                value=f"{use.name}: {needs_s:g} s",
                limit=f"under {deadline_s:g} s",
                mend=f"raise reward.deadlines.{use.name}, or lower the limits in the `reward` of its prompts or suite",
            )
        future = self._loads[use]
        if error is not None:
            del self._loads[use]
            future.set_exception(error)
        elif not future.done():
            future.set_result(None)

    def _replace_server(self) -> None:
        """Start over after the fork server died: its workers died with it, what they owed is queued anew."""
        assert self._server is not None
        self._selector.unregister(self._server.control)
        status = self._server.close()
        self._asked.clear()
        for worker in list(self._workers.values()):
            worker.kill("fork server")
            self._drain_channel(worker)
            if worker.task is not None:
                self._queue.appendleft(worker.task)
                worker.task = None
        self._workers.clear()
        self._count_crash(f"the fork server ended with status {status}")
        self._start_server()

    def _bury(self, pid: int, status: int) -> None:
        ticket = next(t for t, w in self._workers.items() if w.pid == pid)
        worker = self._workers.pop(ticket)
        self._drain_channel(worker)
        task, worker.task = worker.task, None
        if worker.killed_for == "timeout":
            if task is not None:
                detail = f"no verdict within {task.deadline_s:g} s"
                _log.warning("verifier pool: %s by %s for %.200r", detail, task.verifier, task.key)
                self._finish(task, Verdict(None, "timeout", detail, time.monotonic() - task.started))
            return
        if status == 0 and task is None:  # it had served long enough
            return
        self._count_crash(f"worker {pid} ended with status {status}")
        if task is not None:
            task.crashes += 1
            if task.crashes < (_MAX_ATTEMPTS_KILLED if status == -signal.SIGKILL else _MAX_ATTEMPTS):
                self._queue.appendleft(task)
            else:
                detail = f"the verifier's process died {task.crashes} times, last with status {status}"
                self._finish(task, Verdict(None, "crash", detail, time.monotonic() - task.started))

    def _drain_channel(self, worker: Worker) -> None:
        """Take the reply that a process may have sent just before its end."""
        if worker.channel.fileno() >= 0:
            while worker.read():
                if not self._wait_readable(worker):
                    break
            self._take_replies(worker)
            self._selector.unregister(worker.channel)
        worker.close()

    @staticmethod
    def _wait_readable(worker: Worker) -> bool:
        with selectors.DefaultSelector() as once:
            once.register(worker.channel, selectors.EVENT_READ)
            return bool(once.select(5.0))

    def _count_crash(self, what: str) -> None:
        now = time.monotonic()
        _log.warning("verifier pool: %s", what)
        self._crashes.append(now)
        while self._crashes[0] < now - _CRASH_WINDOW_S:
            self._crashes.popleft()
        if len(self._crashes) > _CRASH_BUDGET:
            raise RewardError(
                "verifier processes keep dying",
                value=f"{len(self._crashes)} within {_CRASH_WINDOW_S:g} s; last: {what}",
                limit=_CRASH_BUDGET,
                mend="look for the out-of-memory killer and at reward.memory_mib, then at the verifier",
            )

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _hear_worker(self, worker: Worker, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            worker.write()
            if not worker.unsent:
                self._selector.modify(worker.channel, selectors.EVENT_READ, worker)
        if events & selectors.EVENT_READ:
            alive = worker.read()
            self._take_replies(worker)
            if not alive and worker.channel.fileno() >= 0:  # the fork server will say how it ended
                worker.retiring = worker.ended = True
                self._selector.unregister(worker.channel)
                worker.channel.close()

    def _take_replies(self, worker: Worker) -> None:
        for reply in take_replies(worker.received):
            task, worker.task = worker.task, None
            assert task is not None, "a worker answered without being asked"
            assert task.task_id == reply.task_id, "a worker answered another task"
            self._finish(task, _verdict(reply))
            if reply.last or worker.retiring:
                self._retire_when_idle(worker)

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            late = worker.task is not None and now - worker.task.started >= worker.task.deadline_s
            if late and worker.killed_for is None:
                worker.kill("timeout")
        if self._asked and now - self._asked[0] >= _FORK_SERVER_DEADLINE_S:
            raise RewardError(
                "the process that verifiers are forked from doesn't answer",
                value=f"{now - self._asked[0]:.0f} s",
                limit=f"{_FORK_SERVER_DEADLINE_S:g} s",
                mend="look at the verifiers' imports and constructors",
            )

    def _assign(self) -> None:
        """Give tasks to idle workers; fork workers for those that wait."""
        if not self._queue:
            return
        for worker in self._workers.values():
            if worker.idle and self._queue:
                task = self._queue.popleft()
                worker.task, task.started = task, time.monotonic()
                worker.unsent = memoryview(task.frame)
                worker.write()
                if worker.unsent:
                    self._selector.modify(worker.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)
        staff = self._workers.values()
        starting = sum(worker.starting for worker in staff)
        busy = sum(worker.task is not None and not worker.ended for worker in staff)
        for _ in range(min(len(self._queue), self._config.workers - busy) - starting):
            self._fork_worker()

    def _finish(self, task: Task, verdict: Verdict) -> None:
        with self._lock:
            task.sink.append((task.key, verdict))
            self.unfinished -= 1
            self.unfinished_bytes -= len(task.frame)
            self._lock.notify_all()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, error: CascadeError) -> None:
        with self._lock:
            self.failure = error
            self._lock.notify_all()

    def _tear_down(self) -> None:
        with self._lock:
            self._ended = True
        waiting = [*self._loads.values(), *(item[1] for item in self._inbox if isinstance(item, tuple))]
        for future in waiting:
            if not future.done():
                future.set_exception(self.failure or RewardError("the verifier pool is closed"))
        for worker in self._workers.values():
            worker.kill("close")
        if self._server is not None:
            self._server.close()
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._selector.close()
        os.close(self._wake)


def deadline_of(config: RewardConfig, verifier: str) -> float:
    """Return the deadline of a verifier's verdicts, seconds."""
    return config.deadlines.get(verifier, config.deadline_s)


def _verdict(reply: Reply) -> Verdict:
    return Verdict(reply.score, reply.error, reply.detail, reply.seconds)


def _chain(source: Future[None], target: Future[None]) -> None:
    def copy(done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            target.set_result(None)
        else:
            target.set_exception(error)

    source.add_done_callback(copy)
