"""A queue whose waiters are served in the order of their coming."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Holds things for threads that wait for one.

    With queue.Queue a thread that gives a thing back and asks again at once gets it before all who wait, so under full
    load some wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._things: list[T] = []
        self._waiters: deque[Future[T]] = deque()

    def put(self, thing: T) -> None:
        """Hand a thing to who has waited longest, or keep it."""
        with self._lock:
            if not self._waiters:
                self._things.append(thing)
                return
            waiter = self._waiters.popleft()
        waiter.set_result(thing)

    def get(self) -> T:
        """Return the thing that came last, or wait for one."""
        with self._lock:
            if self._things:
                return self._things.pop()
            waiter: Future[T] = Future()
            self._waiters.append(waiter)
        return waiter.result()

    def drain(self) -> list[T]:
        """Take all things that nobody waits for."""
        with self._lock:
            things, self._things = self._things, []
        return things
