"""Code verifier: does the program pass all tests?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nemo_cascade.rewards.code_block import last_program
from nemo_cascade.rewards.code_tests import CodeTests, StdioTest, read_tests, restore_builtins, with_preamble
from nemo_cascade.rewards.confined import ConfinedRuns, python_or_cpp
from nemo_cascade.rewards.guards import prompt_text
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.output_check import CALL_HELPERS, same_output
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score

if TYPE_CHECKING:
    from nemo_cascade.sandbox.program import Program

_DOUBLE = {"tests": [{"stdin": "3\n", "expected": "6\n"}, {"stdin": "0\n", "expected": "0"}]}
_ADD = {"input_output": {"fn_name": "add", "inputs": [[1, 2], [5, 5]], "outputs": [[3], [10]]}}
_MAX_PROGRAM_CHARS = 200_000

T = TypeVar("T")


def _fenced(program: str) -> str:
    return f"<think>let me see</think>\n```python\n{program}\n```\n"


class CodeVerifier:
    """Score 1 if the last code block after `</think>` passes all tests, else 0 (arXiv 2512.13607, section 4.6).

    Formats of tests: `code_tests.read_tests`. Programs run only in the sandbox; the language is the row's `language`,
    python or cpp. Tests run cheapest first, and the first that fails ends it.

    A program over a limit fails: that is its own doing. A sandbox that breaks is an error `infrastructure`, tests that
    can't be run are an error `record`.

    Args:
        per_test_s: CPU seconds of one run of a whole program (of all calls together for function tests: `total_s`).
        total_s: CPU seconds of all tests together; must fit into the pool's deadline for this verifier.
        max_tests: most tests that are run; of more, an even choice from small to large.
        memory_mib: memory of one run.
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
        mixed_language_score: float | None = None,
        language: str = "en",
    ) -> None:
        self._per_test_s, self._total_s, self._max_tests = per_test_s, total_s, max_tests
        self._mixed_language_score, self._language = mixed_language_score, language
        self.needs_s = total_s
        self._runs = ConfinedRuns(memory_mib)

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        tests = read_tests(record)
        language = str(record.get("language") or "python").lower()
        parts = split_response(response.text)
        if parts.answer is None:
            return Score(0.0, "thinking never ended")
        if self._mixed_language_score is not None:
            foreign = foreign_text(parts.reasoning, self._language, quoted=prompt_text(record))
            if foreign is not None:
                return Score(self._mixed_language_score, f"foreign text in the reasoning: {foreign}")
        program = last_program(parts.answer, language)
        if program is None:
            return Score(0.0, "no closed code block")
        if len(program) > _MAX_PROGRAM_CHARS:
            return Score(0.0, f"a program of {len(program)} characters")
        return self._judge(with_preamble(program, tests), language, tests)

    def _judge(self, source: str, language: str, tests: CodeTests) -> float:
        from nemo_cascade.sandbox.program import Program

        program = Program(language=python_or_cpp(language), source=source)
        if tests.stdio:
            return self._judge_output(program, tests.stdio)
        return self._judge_functions(program, tests)

    def _judge_output(self, program: Program, tests: tuple[StdioTest, ...]) -> float:
        chosen = _spread(sorted(tests, key=lambda t: len(t.stdin) + len(t.expected)), self._max_tests)
        left_s = self._total_s
        for number, test in enumerate(chosen, 1):
            outcome = self._runs.run(replace(program, stdin=test.stdin), min(self._per_test_s, left_s))
            where = f"test {number} of {len(chosen)}"
            if not outcome.ok:
                return Score(0.0, f"{where}: {outcome.status} {outcome.detail} {outcome.stderr.strip()[-200:]}")
            if not same_output(outcome.stdout, test.expected):
                return Score(0.0, f"{where}: printed {outcome.stdout[:100]!r}, not {test.expected[:100]!r}")
            left_s -= outcome.cpu_s
            if left_s <= 0:
                return Score(0.0, f"{where}: over {self._total_s:g} CPU seconds for all tests")
        return Score(1.0, f"{len(chosen)} tests passed")

    def _judge_functions(self, program: Program, tests: CodeTests) -> float:
        from nemo_cascade.sandbox.judging import FunctionTests

        if tests.calls:
            chosen = _spread(sorted(tests.calls, key=lambda t: len(repr(t))), self._max_tests)
            lines = [
                f"assert _any(_function({tests.entry_point!r}, globals())(*{list(t.arguments)!r}), {t.expected!r}), "
                f"'call {number} of {len(chosen)}'"
                for number, t in enumerate(chosen, 1)
            ]
            suite = FunctionTests(tests=("\n".join(lines),), setup=restore_builtins(tests) + CALL_HELPERS)
        else:
            setup = restore_builtins(tests) + tests.setup
            suite = FunctionTests(tests=tests.asserts, entry_point=tests.entry_point, setup=setup)
        judgement = self._runs.judge(program, suite, self._total_s)
        failed = next((d for passed, d in zip(judgement.results, judgement.details, strict=True) if not passed), None)
        return Score(float(judgement.passed), failed or f"{len(judgement.results)} tests passed")


def _spread(items: list[T], most: int) -> list[T]:
    """Choose at most so many items evenly, the first and the last among them."""
    if len(items) <= most or most < 2:
        return items[:most]
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
