"""A client of the sandbox service that tells a failing program from a failing service."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.judging import FunctionTests, IoCase, Judgement
from nemo_cascade.sandbox.program import Outcome, Program
from nemo_cascade.sandbox.wire import IDEMPOTENCY_HEADER, ProgramBody

T = TypeVar("T")
_OUTCOME, _JUDGEMENT, _LIMITS = TypeAdapter(Outcome), TypeAdapter(Judgement), TypeAdapter(Limits)
_TRY_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_PAUSE_S = 10.0


class SandboxClient:
    """Runs programs on a sandbox service, with the same calls as Sandbox. Thread-safe.

    Args:
        url: of the service, as http://127.0.0.1:8010.
        token: the service's.
        deadline_s: a request that has no answer by then, with all its repetitions, raises.
        first_pause_s: before the first repetition; it doubles each time, with jitter.
        concurrency: requests side by side in run_many().
    """

    def __init__(
        self, url: str, token: str, *, deadline_s: float = 300.0, first_pause_s: float = 0.2, concurrency: int = 16
    ) -> None:
        self._deadline_s, self._first_pause_s, self._concurrency = deadline_s, first_pause_s, concurrency
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(deadline_s, connect=5.0),
            limits=httpx.Limits(max_connections=concurrency),
        )
        self._random, self._lock = random.Random(), threading.Lock()
        self.repeated = 0
        """Requests that had to be sent again."""

    def run(self, program: Program, limits: Limits | None = None) -> Outcome:
        """Run one program; see Sandbox.run.

        Raises:
            SandboxError: if the service refused the request, or gave no answer; nothing is known about the
                program then.
        """
        return self._ask("/v1/runs", {"program": ProgramBody.of(program)}, limits, _OUTCOME.validate_python)

    def run_many(self, programs: Sequence[Program], limits: Limits | None = None) -> list[Outcome]:
        """Run programs side by side; outcomes in the order of the programs."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            return list(threads.map(lambda program: self.run(program, limits), programs))

    def judge(self, program: Program, tests: FunctionTests, limits: Limits | None = None) -> Judgement:
        """Judge a solution by function tests; see Sandbox.judge."""
        told = {"tests": list(tests.tests), "entry_point": tests.entry_point, "setup": tests.setup}
        told["modules"] = list(tests.modules)
        body = {"program": ProgramBody.of(program), "tests": told}
        return self._ask("/v1/judgements", body, limits, _JUDGEMENT.validate_python)

    def judge_output(self, program: Program, cases: Sequence[IoCase], limits: Limits | None = None) -> Judgement:
        """Judge a whole program by its output; see Sandbox.judge_output."""
        told = [{"stdin": case.stdin, "expected": case.expected, "tolerance": case.tolerance} for case in cases]
        body = {"program": ProgramBody.of(program), "cases": told}
        return self._ask("/v1/output-judgements", body, limits, _JUDGEMENT.validate_python)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, path: str, body: dict[str, Any], limits: Limits | None, read: Callable[[Any], T]) -> T:
        if limits is not None:
            body = {**body, "limits": _LIMITS.dump_python(limits)}
        key = {IDEMPOTENCY_HEADER: uuid.uuid4().hex}
        end, pause = time.monotonic() + self._deadline_s, self._first_pause_s
        while True:
            try:
                response = self._http.post(path, json=body, headers=key)
            except httpx.TransportError as error:
                told: object = repr(error)
                wait = pause
            else:
                if response.status_code == 200:
                    return read(response.json())
                told = f"{response.status_code} {response.text[:500]}"
                if response.status_code not in _TRY_AGAIN:
                    raise SandboxError("the sandbox service refused a request", value=told)
                wait = max(pause, float(response.headers.get("Retry-After", 0)))
            with self._lock:
                self.repeated += 1
                wait *= self._random.uniform(0.5, 1.5)
            if time.monotonic() + wait > end:
                raise SandboxError(
                    "the sandbox service gives no answer; nothing is known about the program",
                    value=told,
                    limit=f"{self._deadline_s:g} s",
                    mend="see the log of `nemo-cascade serve sandbox`",
                )
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
