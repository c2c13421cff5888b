"""Judge solutions so that passing is proven: by a secret of the checker's process.

A solution never shares an interpreter with a test. It can't know the secret, end the checker, patch it, or answer a
comparison: exit statuses, printed expected answers and overridden operators prove nothing.
"""

import hmac
import json
import os
import secrets
import socket
from dataclasses import dataclass, replace

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.execution import Errand, memory_file
from nemo_cascade.sandbox.outcome import outcome_of
from nemo_cascade.sandbox.pool import WorkerPool
from nemo_cascade.sandbox.program import Outcome, Program, Status
from nemo_cascade.sandbox.ready_tests import UnjudgeableTestsError, ready_tests
from nemo_cascade.sandbox.releasing import HELD

_CHECKER_MEMORY_MIB = 1024
_CHECKER_GRACE_S = 0.5
_CHECKER_OUTPUT_KIB = 16 << 10


@dataclass(frozen=True, slots=True)
class FunctionTests:
    """Trusted Python tests of an untrusted Python solution.

    Attributes:
        tests: texts of asserts, each judged for itself. What a text uses without defining it comes from the solution,
            if it's neither a built-in nor of the standard library. One that defines `check(candidate)` has it called
            with the entry point (HumanEval's form); test functions and unittest classes are run as pytest would.
        entry_point: the function under test, as `f` or `Solution().f`; empty where the tests call it by its name.
        setup: runs once before the tests (imports, helpers). Objects of its classes go to the solution and come back
            by value.
        modules: names under which tests import the solution.
    """

    tests: tuple[str, ...]
    entry_point: str = ""
    setup: str = ""
    modules: tuple[str, ...] = ("solution",)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What tests say about a solution.

    Attributes:
        results: one per test, in order; True is proven.
        details: one per test: why it failed, empty where it passed.
        outcome: how the solution's process ended.
        unjudgeable: why the tests themselves can't be run, or None; `results` are all False then and mean nothing.
    """

    results: tuple[bool, ...]
    details: tuple[str, ...]
    outcome: Outcome
    unjudgeable: str | None = None

    @property
    def passed(self) -> bool:
        """All tests passed, and there was one."""
        return bool(self.results) and all(self.results)


def judge_functions(pool: WorkerPool, program: Program, tests: FunctionTests, limits: Limits) -> Judgement:
    """Judge a solution by function calls; see Sandbox.judge."""
    if program.language != "python":
        raise SandboxError("function tests need a Python solution", value=program.language, mend="judge by its output")
    secret = secrets.token_hex(32)
    header = {"entry": program.main_file, "argv": [], "unwritten": [program.main_file]}
    try:
        ready = ready_tests(tests.tests, tests.entry_point, tests.setup, tests.modules)
    except UnjudgeableTestsError as error:
        return _unjudgeable(len(tests.tests), str(error))
    told = {**ready._asdict(), "secret": secret, "entry_point": tests.entry_point, "held": HELD}
    report = memory_file("report")
    files = {**program.files, program.main_file: program.source_bytes()}
    checker_limits = replace(
        limits,
        memory_mib=max(limits.memory_mib, _CHECKER_MEMORY_MIB),
        wall_s=limits.wall_s + _CHECKER_GRACE_S,
        output_kib=_CHECKER_OUTPUT_KIB,
    )

    def prepare() -> list[Errand]:
        os.ftruncate(report, 0)
        ours, theirs = (end.detach() for end in socket.socketpair())
        solution = {**header, **program.for_python(), "kind": "solution"}
        checker = {**header, **told, "kind": "harness"}
        return [
            Errand(solution, files, limits, program.stdin_bytes(), gifts={"peer": theirs}, essential=False),
            Errand(checker, {}, checker_limits, extra={"report": report}, gifts={"peer": ours}),
        ]

    try:
        ran, checked = pool.execute(prepare)
        return _read_report(report, secret, len(tests.tests), outcome_of(ran), outcome_of(checked))
    finally:
        os.close(report)


def _unjudgeable(count: int, why: str) -> Judgement:
    nothing_ran = Outcome(Status.ERROR, 1, "", "", 0.0, detail="not run")
    return Judgement((False,) * count, ("",) * count, nothing_ran, unjudgeable=why)


def _read_report(report: int, secret: str, count: int, solution: Outcome, checker: Outcome) -> Judgement:
    text = os.pread(report, os.fstat(report).st_size, 0)
    if not text:  # out of time or memory: no proof, no pass
        ended = checker if solution.status is Status.ABANDONED else solution
        return Judgement((False,) * count, (ended.detail or "no verdict",) * count, ended)
    told = json.loads(text)
    if not hmac.compare_digest(str(told["secret"]), secret):
        raise SandboxError("the checker's report carries the wrong secret")
    if told["error"] is not None:
        return _unjudgeable(count, str(told["error"]))
    results = tuple(bool(passed) for passed, _ in told["results"])
    reason = _reason(solution)
    details = tuple(f"{detail}; {reason}" if reason and detail else str(detail) for _, detail in told["results"])
    return Judgement(results, details, solution)


def _reason(solution: Outcome) -> str:
    """Say why the solution ended before its tests, where it did."""
    if solution.status in (Status.OK, Status.ABANDONED):
        return ""
    last = solution.stderr.strip().rsplit("\n", 1)[-1]
    return f"{solution.detail}: {last}" if last and solution.status is Status.ERROR else solution.detail
