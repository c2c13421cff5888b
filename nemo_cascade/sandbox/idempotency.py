"""Answer a repeated request with the answer of the first, running or done."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
_KEPT = 1024  # each may hold as much output as its limits allow


class KeyConflictError(Exception):
    """A key was used again for another request."""


class Answers:
    """The last thousand answers by key. For one event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[bytes, asyncio.Future[Any]]] = OrderedDict()

    async def once(self, key: str | None, request: bytes, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, unless this key was seen: then wait for what came of it.

        Args:
            key: None: no promise, just do it.
            request: what a key stands for.
            work: to do. If it fails the key is forgotten, so that a repetition tries anew.

        Raises:
            KeyConflictError: if the key stands for another request.
        """
        if key is None:
            return await work()
        digest = hashlib.sha256(request).digest()
        known = self._answers.get(key)
        if known is not None:
            if known[0] != digest:
                raise KeyConflictError(f"key {key!r} was used for another request")
            result: T = await asyncio.shield(known[1])
            return result
        task = asyncio.ensure_future(work())
        self._answers[key] = (digest, task)
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)
        try:
            # Shielded: a client that hangs up and asks again must find its run going on.
            return await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._answers.pop(key, None)
            else:
                task.add_done_callback(lambda done: self._forget_failed(key, done))
            raise

    def _forget_failed(self, key: str, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._answers.pop(key, None)
