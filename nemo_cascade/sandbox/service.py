"""The sandbox over HTTP: token, bounded body, bounded queue, idempotent requests, OpenAPI at /docs."""

from __future__ import annotations

import asyncio
import functools
import hmac
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from nemo_cascade import __version__
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.idempotency import Answers, KeyConflictError
from nemo_cascade.sandbox.judging import Judgement
from nemo_cascade.sandbox.pool import SandboxBusyError
from nemo_cascade.sandbox.program import Outcome
from nemo_cascade.sandbox.sandbox import Sandbox
from nemo_cascade.sandbox.wire import (
    IDEMPOTENCY_HEADER,
    Health,
    JudgeOutputRequest,
    JudgeRequest,
    Problem,
    RunRequest,
)

T = TypeVar("T")
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_RETRY_AFTER_S = {429: "1", 503: "5"}
Key = Annotated[str | None, Header(alias=IDEMPOTENCY_HEADER, max_length=200)]


class _Refusal(Exception):
    def __init__(self, status: int, error: str, detail: str) -> None:
        self.status, self.problem = status, Problem(error=error, detail=detail)


def _answer(refusal: _Refusal) -> JSONResponse:
    headers = {"Retry-After": _RETRY_AFTER_S[refusal.status]} if refusal.status in _RETRY_AFTER_S else None
    return JSONResponse(refusal.problem.model_dump(), refusal.status, headers)


class BodyLimit:
    """Refuse request bodies over a size before they are read to their end."""

    def __init__(self, app: Callable[[_Scope, _Receive, _Send], Awaitable[None]], most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Handle one connection event as ASGI prescribes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = bytearray(), not told.isdigit() or int(told) <= self._most_bytes
        too_large = not more
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            too_large = len(body) > self._most_bytes
            more = bool(message.get("more_body")) and not too_large
        if too_large:
            refusal = _Refusal(413, "too_large", f"a body may have {self._most_bytes} bytes")
            await _answer(refusal)(scope, receive, send)
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


class Service:
    """Hands requests to a sandbox, each key once, and refuses more than fit the queue."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._most = sandbox.config.workers + sandbox.config.queue
        self._threads = ThreadPoolExecutor(sandbox.config.workers, thread_name_prefix="sandbox-service")
        self._answers = Answers()
        self._lock = threading.Lock()
        self._in_flight = 0

    async def run(self, key: str | None, request: Any, body: bytes, work: Callable[[], T]) -> T:
        """Do the work of a request in a thread, or wait for the same request that came before."""
        try:
            return await self._answers.once(key, type(request).__name__.encode() + body, lambda: self._admit(work))
        except KeyConflictError as error:
            raise _Refusal(409, "conflict", str(error)) from error
        except SandboxBusyError as error:
            raise _Refusal(429, "busy", str(error)) from error
        except SandboxError as error:
            raise _Refusal(503, "infrastructure", str(error)) from error

    async def _admit(self, work: Callable[[], T]) -> T:
        if self._in_flight >= self._most:
            raise SandboxBusyError("too many requests are waiting", limit=self._most, mend="try again later")
        self._in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._in_flight -= 1

    def health(self) -> Health:
        """Return the state for monitors."""
        pool, config = self._sandbox.pool, self._sandbox.config
        return Health(
            ready=True,
            isolation=config.isolation,
            workers=config.workers,
            in_flight=self._in_flight,
            replaced=pool.replaced,
            recycled=pool.recycled,
        )

    def close(self) -> None:
        """End the threads; the sandbox stays the caller's."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def create_app(sandbox: Sandbox, token: str, most_body_bytes: int) -> FastAPI:
    """Build the application.

    Args:
        sandbox: where programs run; it stays the caller's to close.
        token: what clients must send as `Authorization: Bearer TOKEN`.
        most_body_bytes: largest request body.
    """
    service = Service(sandbox)
    bearer = HTTPBearer(auto_error=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    def authorize(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise _Refusal(401, "unauthorized", "send the token of the service as a bearer token")

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (401, 409, 413, 422, 429, 503)
    }
    app = FastAPI(title="nemo-cascade sandbox", version=__version__, lifespan=lifespan, responses=problems)
    app.add_middleware(BodyLimit, most_bytes=most_body_bytes)
    app.add_exception_handler(_Refusal, lambda _, error: _answer(error))  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)
    guarded = [Depends(authorize)]

    @app.get("/v1/health")
    def health() -> Health:
        """Tell whether the service takes requests."""
        return service.health()

    @app.post("/v1/runs", dependencies=guarded)
    async def run(request: RunRequest, http: Request, key: Key = None) -> Outcome:
        """Run a program; a program that fails is an outcome, not an error."""
        work = functools.partial(sandbox.run, _program(request), request.limits)
        return await service.run(key, request, await http.body(), work)

    @app.post("/v1/judgements", dependencies=guarded)
    async def judge(request: JudgeRequest, http: Request, key: Key = None) -> Judgement:
        """Judge a Python solution by tests that call it."""
        work = functools.partial(sandbox.judge, _program(request), request.tests.function_tests(), request.limits)
        return await service.run(key, request, await http.body(), work)

    @app.post("/v1/output-judgements", dependencies=guarded)
    async def judge_output(request: JudgeOutputRequest, http: Request, key: Key = None) -> Judgement:
        """Judge a whole program by what it prints."""
        cases = [case.case() for case in request.cases]
        work = functools.partial(sandbox.judge_output, _program(request), cases, request.limits)
        return await service.run(key, request, await http.body(), work)

    return app


def _program(request: RunRequest | JudgeRequest | JudgeOutputRequest) -> Any:
    try:
        return request.program.program()
    except SandboxError as error:
        raise _Refusal(422, "invalid", str(error)) from error


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return _answer(_Refusal(422, "invalid", told))
