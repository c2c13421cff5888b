"""The sandbox over HTTP: token, bounded body, bounded queue, idempotent requests, OpenAPI at /docs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Header, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from nemo_cascade import __version__
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.execution import JobRefusedError
from nemo_cascade.sandbox.gate import Gate, Refusal
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
# For the documentation; the gate has checked the token before anything else.
_BEARER = Security(HTTPBearer(auto_error=False))
Key = Annotated[str | None, Header(alias=IDEMPOTENCY_HEADER, max_length=200)]


class Service:
    """Hands requests to a sandbox, each key once, and refuses more than fit the queue."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._most = sandbox.config.workers + sandbox.config.queue
        self._threads = ThreadPoolExecutor(sandbox.config.workers, thread_name_prefix="sandbox-service")
        self._answers = Answers()
        self._in_flight = 0

    async def run(self, key: str | None, request: Any, body: bytes, work: Callable[[], T]) -> T:
        """Do the work of a request in a thread, or wait for the same request that came before."""
        try:
            return await self._answers.once(key, type(request).__name__.encode() + body, lambda: self._admit(work))
        except KeyConflictError as error:
            raise Refusal(409, "conflict", str(error)) from error
        except JobRefusedError as error:
            raise Refusal(422, "invalid", str(error)) from error
        except SandboxBusyError as error:
            raise Refusal(429, "busy", str(error)) from error
        except SandboxError as error:
            raise Refusal(503, "infrastructure", str(error)) from error

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

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (401, 408, 409, 413, 422, 429, 503)
    }
    app = FastAPI(title="nemo-cascade sandbox", version=__version__, lifespan=lifespan, responses=problems)
    app.add_middleware(Gate, token=token, most_body_bytes=most_body_bytes)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/v1/health")
    def health() -> Health:
        """Tell whether the service takes requests."""
        return service.health()

    @app.post("/v1/runs", dependencies=[_BEARER])
    async def run(request: RunRequest, http: Request, key: Key = None) -> Outcome:
        """Run a program; a program that fails is an outcome, not an error."""
        work = functools.partial(sandbox.run, _program(request), request.limits)
        return await service.run(key, request, await http.body(), work)

    @app.post("/v1/judgements", dependencies=[_BEARER])
    async def judge(request: JudgeRequest, http: Request, key: Key = None) -> Judgement:
        """Judge a Python solution by tests that call it."""
        work = functools.partial(sandbox.judge, _program(request), request.tests.function_tests(), request.limits)
        return await service.run(key, request, await http.body(), work)

    @app.post("/v1/output-judgements", dependencies=[_BEARER])
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
        raise Refusal(422, "invalid", str(error)) from error


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return Refusal(422, "invalid", told).response()
