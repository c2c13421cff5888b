"""What stands before the service: the token first, then the size of the body, then the application."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from nemo_cascade.sandbox.wire import Problem

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_RETRY_AFTER_S = {429: "1", 503: "5"}
_BODY_DEADLINE_S = 60
_OPEN_METHODS = ("GET", "HEAD")


class Refusal(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP status.
        error: one of the kinds that Problem names.
        detail: one line for people.
    """

    def __init__(self, status: int, error: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.problem = status, Problem(error=error, detail=detail)

    def response(self) -> JSONResponse:
        """Return the response, with when to try again where that makes sense."""
        after = _RETRY_AFTER_S.get(self.status)
        return JSONResponse(self.problem.model_dump(), self.status, {"Retry-After": after} if after else None)


class Gate:
    """ASGI middleware that refuses strangers and oversized bodies before the application sees them.

    Args:
        app: the application.
        token: what every request but a GET must carry as a bearer token.
        most_body_bytes: largest body.
    """

    def __init__(self, app: _Application, token: str, most_body_bytes: int) -> None:
        self._app, self._expected, self._most_bytes = app, f"Bearer {token}".encode(), most_body_bytes

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Handle one connection event as ASGI prescribes."""
        if scope["type"] != "http" or scope["method"] in _OPEN_METHODS:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                raise Refusal(401, "unauthorized", "send the token of the service as a bearer token")
            async with asyncio.timeout(_BODY_DEADLINE_S):
                body = await self._body(headers.get(b"content-length", b"0"), receive)
        except TimeoutError:
            await Refusal(408, "too_slow", f"a body must come within {_BODY_DEADLINE_S} s").response()(
                scope, receive, send
            )
            return
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        if body is None:
            return
        waiting: list[_Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> _Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)

    async def _body(self, told_length: bytes, receive: _Receive) -> bytes | None:
        """Return the whole body, or None if the client hung up."""
        refusal = Refusal(413, "too_large", f"a body may have {self._most_bytes} bytes")
        if not told_length.isdigit() or int(told_length) > self._most_bytes:
            raise refusal
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._most_bytes:
                raise refusal
            if not message.get("more_body"):
                return bytes(body)
