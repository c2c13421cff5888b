"""Warm workers: hand them out one run at a time, replace the worn and the dead."""

import contextlib
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.execution import Errand, Execution, JobRefusedError
from nemo_cascade.sandbox.isolation import Launch
from nemo_cascade.sandbox.worker import Worker, WorkerLostError

log = logging.getLogger(__name__)

_ATTEMPTS = 2
_RECYCLE_AFTER = 2000
"""Runs after which a worker is replaced by a fresh one."""


class _Place(Enum):
    """What stands in the queue of idle workers for a worker."""

    VACANT = auto()
    """A worker died here; who takes the place starts another."""
    CLOSED = auto()
    """The pool is closed; it is put back for the next who asks."""


class WorkerPool:
    """Runs errands on warm workers. Thread-safe.

    Args:
        launch: how a worker is started.
        workers: how many.

    Raises:
        SandboxError: if the workers can't be started.
    """

    def __init__(self, launch: Launch, workers: int) -> None:
        self._launch = launch
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[Worker | _Place] = queue.LifoQueue()
        # The kernel kills a worker when the thread that started it ends, so one thread starts all and lives on.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")
        self._lock = threading.Lock()
        self._all: set[Worker] = set()
        self._successors: dict[Worker, Future[Worker]] = {}
        self._closed = False
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for started in [self._starter.submit(self._start_worker) for _ in range(workers)]:
                self._idle.put(started.result())
            undo.pop_all()

    def waiting(self) -> int:
        """Return how many children of all workers wait for a job."""
        with self._lock:
            return sum(worker.waiting for worker in self._all)

    def execute(self, prepare: Callable[[], list[Errand]]) -> list[Errand]:
        """Run errands side by side on one worker; once more on another if that worker breaks.

        Args:
            prepare: makes the errands, anew for each attempt.

        Raises:
            JobRefusedError: if a job can't be run anywhere.
            SandboxError: if two workers broke, or the pool is closed.
        """
        assert os.getpid() == self._owner, "a sandbox doesn't survive a fork: make one in each process"
        lost: WorkerLostError | None = None
        for _ in range(_ATTEMPTS):
            try:
                with self._worker() as worker:
                    errands = prepare()
                    Execution(worker, errands).run()
                return errands
            except WorkerLostError as error:
                lost = error
                log.warning("%s; its run is tried on another", error)
        raise SandboxError("a run broke two sandbox workers; nothing is known about its program", value=lost)

    def close(self) -> None:
        """Kill all workers with everything in them; runs that are under way or wait fail."""
        with self._lock:
            self._closed = True
        self._starter.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            workers = set(self._all)
        for worker in workers:
            worker.stop()
        with contextlib.suppress(queue.Empty):
            while True:
                idle = self._idle.get_nowait()
                if isinstance(idle, Worker):
                    idle.close()
        self._idle.put(_Place.CLOSED)
        if self._launch.workspace is not None:
            shutil.rmtree(self._launch.workspace, ignore_errors=True)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._take()
        with contextlib.ExitStack() as undo:
            undo.callback(self._give_up, worker)  # in whatever state it is, it must not see another run
            try:
                yield worker
            except JobRefusedError:
                undo.pop_all()
                self._idle.put(self._renewed(worker))
                raise
            undo.pop_all()
        self._idle.put(self._renewed(worker))

    def _give_up(self, worker: Worker) -> None:
        self._retire(worker)
        self._vacate(self._successors.pop(worker, None))

    def _vacate(self, successor: Future[Worker] | None) -> None:
        """Fill a dead worker's place with the successor that is on its way, or leave it vacant."""
        if successor is None or self._closed:
            self._idle.put(_Place.CLOSED if self._closed else _Place.VACANT)
            return
        successor.add_done_callback(
            lambda done: self._idle.put(_Place.VACANT if done.cancelled() or done.exception() else done.result())
        )

    def _take(self) -> Worker:
        """Wait for a worker; where one has died, start another."""
        found = self._idle.get()
        if isinstance(found, Worker):
            return found
        with contextlib.ExitStack() as undo:
            undo.callback(self._idle.put, found)
            started = self._begin_start().result()
            undo.pop_all()
        return started

    def _begin_start(self) -> Future[Worker]:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            return self._starter.submit(self._start_worker)

    def _renewed(self, worker: Worker) -> Worker | _Place:
        """Return the worker, or its successor once that is up; the old one serves until then."""
        if self._closed:
            self._retire(worker)
            return _Place.CLOSED
        if worker.runs < _RECYCLE_AFTER:
            return worker
        successor = self._successors.get(worker)
        if successor is None:
            self._successors[worker] = self._begin_start()
            return worker
        if not successor.done():
            return worker
        del self._successors[worker]
        if successor.exception() is not None:
            log.warning("an old sandbox worker stays, for no new one starts: %s", successor.exception())
            return worker
        self._retire(worker)
        return successor.result()

    def _retire(self, worker: Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.close()

    def _start_worker(self) -> Worker:
        worker = Worker(self._launch, (Limits().files_mib, False))
        with contextlib.ExitStack() as undo:
            undo.callback(worker.close)
            worker.start()
            undo.pop_all()
        with self._lock:
            self._all.add(worker)
        return worker
