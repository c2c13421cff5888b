"""Code verifier: does the program pass all tests?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from nemo_cascade.rewards.code.block import last_program
from nemo_cascade.rewards.code.formats import read_tests
from nemo_cascade.rewards.code.output import OutputRule, same_output
from nemo_cascade.rewards.code.tests import CodeTests, StdioTest, function_tests, wanted_names, with_preamble
from nemo_cascade.rewards.form import prompt_text
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.sandboxed import ConfinedRuns, python_or_cpp
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError

if TYPE_CHECKING:
    from nemo_cascade.sandbox.program import Program

_DOUBLE = {"tests": [{"stdin": "3\n", "expected": "6\n"}, {"stdin": "0\n", "expected": "0"}]}
_ADD = {"input_output": {"fn_name": "add", "inputs": [[1, 2], [5, 5]], "outputs": [[3], [10]]}}
_MAX_PROGRAM_CHARS = 200_000
_LEAST_OUTPUT_KIB = 1024
_WAITING_S = 5.0

T = TypeVar("T")


def _fenced(program: str) -> str:
    return f"<think>let me see</think>\n```python\n{program}\n```\n"


@dataclass(frozen=True, slots=True)
class TestResult:
    """How a program did on one test.

    Attributes:
        shown: the test, for whoever wrote the program; empty where there was no program to test.
        fault: what went wrong; empty where it passed.
    """

    shown: str
    fault: str


class CodeVerifier:
    """Score 1 if the program after `</think>` passes all tests, else 0 (arXiv 2512.13607, section 4.6).

    Formats of tests: `code_formats.read_tests`; which block is the program: `code_block.last_program`; how outputs are
    compared: `output_check.same_output`. Programs run only in the sandbox; the language is the row's `language`, python
    or cpp. Tests run cheapest first, and the first that fails ends it.

    A Python program gets what judges of contests give, as LiveCodeBench has it: it needn't import what LeetCode
    imports, may recurse 50,000 deep, and may leave by `exit` with any status. It may print as much as the right output
    is long, four times over, and a MiB; it may start threads but no processes.

    A program over a limit, killed by what it did itself, or waiting for what never comes, fails: that is its own doing.
    A sandbox that breaks, or a machine that doesn't let a program have its CPU seconds, is an error `infrastructure`;
    tests that can't be run, or assert nothing, are an error `record`.

    Tests of functions run in another process than the program, so that no verdict passes its hands: see
    sandbox/inside/harness.py, link.py and remote.py. What remains is up to the tests: a name that they use, that is
    neither built in, nor the standard library's, nor the row's, is the program's, so a test that leaves the comparison
    to a helper which the program is to define believes it; objects of the program's classes are compared with one
    another by its own `==`; `in` looks through what an object yields, its own `__contains__` isn't asked; a loop over
    what the program returns passes where that is empty; and a test that computes what is due from an argument, further
    down than in the asserts behind the call, computes it from what the program left of it. Tests that replace parts of
    the program (mock), read its output, or hand over objects of library classes can't be run apart from it: they fail,
    or are an error `record`.

    Args:
        per_test_s: CPU seconds of one run of a whole program (of all calls together for function tests: `total_s`).
        total_s: CPU seconds of all tests together; must fit into the pool's deadline for this verifier.
        max_tests: most tests that are run; of more, an even choice from small to large.
        memory_mib: memory of one run.
        whitespace: what outputs are compared by: `lines` or `words`; see `output_check.same_output` for who does which.
        any_case: whether letters of an output may be capital or small. A row with `validator_flags` has its own rule.
        mixed_language_score: score of a response whose reasoning holds text of a foreign script, whatever its program
            does (0 in arXiv 2512.13607: -1 hurt there); None doesn't look.
        language: language of the reasoning, ISO 639-1.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(_fenced("print(2 * int(input()))"), 1.0, _DOUBLE),
        Golden(_fenced("print(6)"), 0.0, _DOUBLE),
        Golden(_fenced("import os\nos._exit(0)"), 0.0, _DOUBLE),
        Golden("print(2 * int(input()))", 0.0, _DOUBLE),
        Golden("```python\nprint(2 * int(input()))", 0.0, _DOUBLE),
        Golden(_fenced("def add(a, b):\n    return a + b"), 1.0, _ADD),
        Golden(_fenced("class Solution:\n    def add(self, a, b):\n        return a + b"), 1.0, _ADD),
        Golden(_fenced("def add(a, b):\n    return 3"), 0.0, _ADD),
        Golden(
            _fenced("class Always:\n    def __eq__(self, o): return True\ndef add(a, b): return Always()"), 0.0, _ADD
        ),
        Golden(
            _fenced("def _same(*a): return True\nisinstance = all = _any = _same\ndef add(a, b): return 1"), 0.0, _ADD
        ),
        Golden(_fenced("print(1)"), None, {}, error="record"),
    )

    def __init__(
        self,
        per_test_s: float = 6.0,
        total_s: float = 40.0,
        max_tests: int = 50,
        memory_mib: int = 512,
        whitespace: Literal["lines", "words"] = "lines",
        any_case: bool = False,
        mixed_language_score: float | None = None,
        language: str = "en",
    ) -> None:
        self._per_test_s, self._total_s, self._max_tests = per_test_s, total_s, max_tests
        self._mixed_language_score, self._language = mixed_language_score, language
        self._rule = OutputRule(whitespace, any_case)
        self._runs = ConfinedRuns(memory_mib, forks=False, waiting_s=_WAITING_S)
        self.needs_s = self._runs.longest_s(total_s)

    def verify(self, record: Mapping[str, Any], response: Response) -> Score:
        """Return 1 or 0; see `Verifier.verify`."""
        tests = read_tests(record)
        source = self._source(record, response, tests)
        if isinstance(source, Score):
            return source
        program = _contest_program(record, source)
        if tests.stdio:
            return self._judge_output(program, tests.stdio, tests.rule or self._rule)
        return self._judge_functions(program, tests)

    def results(self, record: Mapping[str, Any], response: Response) -> list[TestResult]:
        """Return how a program does on each of the row's tests, those after a failure too; one where there is none.

        Raises:
            VerifierError: as `verify`.
        """
        tests = read_tests(record)
        source = self._source(record, response, tests)
        if isinstance(source, Score):
            return [TestResult("", source.detail)]
        program = _contest_program(record, source)
        if tests.stdio:
            faults = self._output_faults(program, tests.stdio, tests.rule or self._rule)
            return [TestResult(test.shown, fault) for test, fault in zip(tests.stdio, faults, strict=True)]
        shown = [call.shown(tests.entry_point) for call in tests.calls] or list(tests.asserts)
        apart = tuple(text for call in tests.calls for text in function_tests(tests, [call]).tests)
        suite = replace(function_tests(tests, []), tests=apart or tests.asserts)
        judgement = self._runs.judge(program, suite, self._total_s, output_kib=_LEAST_OUTPUT_KIB)
        said = zip(shown, judgement.results, judgement.details, strict=True)
        return [TestResult(test, "" if passed else detail or "failed") for test, passed, detail in said]

    def _source(self, record: Mapping[str, Any], response: Response, tests: CodeTests) -> str | Score:
        """Return the program that is judged, or the score of a response that has none."""
        language = str(record.get("language") or "python").lower()
        parts = split_response(response.text)
        if parts.answer is None:
            return Score(0.0, "thinking never ended")
        if self._mixed_language_score is not None:
            foreign = foreign_text(parts.reasoning, self._language, quoted=prompt_text(record))
            if foreign is not None:
                return Score(self._mixed_language_score, f"foreign text in the reasoning: {foreign}")
        program = last_program(parts.answer, language, _wanted(tests))
        if program is None:
            return Score(0.0, "no closed code block")
        if len(program) > _MAX_PROGRAM_CHARS:
            return Score(0.0, f"a program of {len(program)} characters")
        return with_preamble(program, tests)

    def _judge_output(self, program: Program, tests: tuple[StdioTest, ...], rule: OutputRule) -> Score:
        chosen = _spread(sorted(tests, key=lambda t: len(t.stdin) + len(t.expected)), self._max_tests)
        for number, fault in enumerate(self._output_faults(program, chosen, rule), 1):
            if fault:
                return Score(0.0, f"test {number} of {len(chosen)}: {fault}")
        return Score(1.0, f"{len(chosen)} tests passed")

    def _output_faults(self, program: Program, tests: Sequence[StdioTest], rule: OutputRule) -> Iterator[str]:
        """Run the program for one test after the other; yield what is wrong with it, nothing where it passes."""
        left = self._runs.allowance(self._total_s)
        over = f"over {self._total_s:g} CPU seconds, or too long a wait, for all tests"
        for test in tests:
            if left.spent:
                yield over
                continue
            allowed_kib = _LEAST_OUTPUT_KIB + 4 * len(test.expected.encode("utf-8", "replace")) // 1024
            outcome = self._runs.run(replace(program, stdin=test.stdin), self._per_test_s, allowed_kib, left)
            if not outcome.ok:
                yield f"{outcome.status} {outcome.detail} {outcome.stderr.strip()[-200:]}"
            elif not same_output(outcome.stdout, test.expected, rule):
                yield f"printed {outcome.stdout[:100]!r}, not {test.expected[:100]!r}"
            else:
                yield over if left.spent else ""

    def _judge_functions(self, program: Program, tests: CodeTests) -> Score:
        calls = _spread(sorted(tests.calls, key=lambda t: len(repr(t))), self._max_tests)
        judgement = self._runs.judge(program, function_tests(tests, calls), self._total_s, output_kib=_LEAST_OUTPUT_KIB)
        failed = next((d for passed, d in zip(judgement.results, judgement.details, strict=True) if not passed), None)
        return Score(float(judgement.passed), failed or f"{len(judgement.results)} tests passed")


def _contest_program(record: Mapping[str, Any], source: str) -> Program:
    from nemo_cascade.sandbox.program import Program

    language = python_or_cpp(str(record.get("language") or "python").lower())
    return Program(language=language, source=source, contest=True)


def _wanted(tests: CodeTests) -> tuple[str, ...]:
    from nemo_cascade.sandbox.ready_tests import UnjudgeableTestsError

    try:
        return wanted_names(tests)
    except UnjudgeableTestsError as error:
        raise VerifierError("record", f"the tests can't be run: {error}") from error


def _spread(items: list[T], most: int) -> list[T]:
    """Choose at most so many items evenly, the first and the last among them."""
    if len(items) <= most or most < 2:
        return items[:most]
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
