"""Execution-based rewards: does the patched code pass its tests, and does a written test tell right from wrong?"""

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.code.block import last_program
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.swe.edits import EditError, apply_edits, parse_edits, solution_part
from nemo_cascade.rewards.swe.hidden import Hidden, HiddenTests
from nemo_cascade.rewards.swe.pytest_ids import pytest_id
from nemo_cascade.rewards.swe.repair import fixed_files
from nemo_cascade.rewards.swe.trial import WrittenTrialRunner
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_FILES = {"calc.py": "def half(x):\n    return x // 2\n"}
_TESTS = """from calc import half
def test_odd(): assert half(3) == 1.5
def test_even(): assert half(4) == 2
"""
_EXECUTE = {
    "files": _FILES,
    "fixed_files": {"calc.py": "def half(x):\n    return x / 2\n"},
    "test_files": {"test_calc.py": _TESTS},
    "fail_to_pass": ["test_calc.py::test_odd"],
    "pass_to_pass": ["test_calc.py::test_even"],
}
_WRITE = {"files": _FILES, "fixed_files": {"calc.py": "def half(x):\n    return x / 2\n"}}
_EDIT = "### calc.py\n<<<<<<< SEARCH\n    return x // 2\n=======\n    return {}\n>>>>>>> REPLACE\n"
_GENERATED = "test_generated.py"


class ExecuteVerifier:
    """Score 1 if the row's tests pass on the files after the answer's SEARCH/REPLACE edits, else 0.

    The row has `files`, `test_files` (put over whatever the edits did to them), and the ids of the tests that must
    pass: `fail_to_pass`, `pass_to_pass`, in any of the forms that `pytest_id` knows. unittest and what tests use of
    pytest are there (`standin_pytest.py`); other packages aren't.

    The tests never share a process with the patched code, so a patch can't forge a pass; what that asks of tests, and
    what it leaves open, says `ApartTrialRunner`. Where the row has the golden patch (`fixed_files` or `patch`), no
    answer scores 0 by tests that the golden patch fails, too (`HiddenTests`). Rows without a golden patch should hold
    only tests that are known to run so.

    Args:
        test_s: CPU seconds of all tests together.
        memory_mib: memory of the run.
        unparsable_score: score of an answer whose edits can't be read or applied.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(f"<think>x</think>\n{_EDIT.format('x / 2')}", 1.0, _EXECUTE),
        Golden(_EDIT.format("x"), 0.0, _EXECUTE),
        Golden(_EDIT.format("1.5"), 0.0, _EXECUTE),
        Golden("no idea", 0.0, _EXECUTE),
        Golden(_EDIT.format("__import__('os')._exit(0)"), 0.0, _EXECUTE),
        Golden("", None, {"files": _FILES}, error="record"),
    )

    def __init__(
        self,
        test_s: float = 20.0,
        memory_mib: int = 512,
        unparsable_score: float = 0.0,
    ) -> None:
        self._hidden = HiddenTests(test_s, memory_mib)
        self._unparsable_score = unparsable_score
        self.needs_s = 2 * test_s

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward; see `Verifier.verify`."""
        files, test_files = field_of(record, "files", Mapping), field_of(record, "test_files", Mapping)
        named = [*field_of(record, "fail_to_pass", list), *(record.get("pass_to_pass") or [])]
        if not named:
            raise VerifierError("record", "no test to run")
        tests = [pytest_id(str(test), test_files) for test in named]
        answer = split_response(response.text).answer
        try:
            if answer is None:
                raise EditError("thinking never ended")
            patched = apply_edits(files, parse_edits(answer, files))
        except EditError as error:
            return Score(self._unparsable_score, f"no patch: {error}")
        golden = fixed_files(record) if "fixed_files" in record or "patch" in record else None
        return self._hidden.score(Hidden(files, test_files, tests, golden), patched)


class WriteTestVerifier:
    """Score 1 if the test in the last code block parses, fails on the row's `files` and passes on the fixed ones.

    The fixed files are `fixed_files` or come of the unified diff `patch`. The test may be several functions, classes or
    unittest classes, written for unittest or pytest (parametrised, with fixtures); it counts as failing if any fails.

    A test must tell the trees apart by what the code does, each time: it can't look at the code
    (`WrittenTrialRunner`), and all its runs, on either tree in an order that it doesn't know, must agree. A test that
    passes at random gets by with probability 4 ** -repeats at most.

    Args:
        test_s: CPU seconds of all runs on one tree together.
        memory_mib: memory of a run.
        partial: scores 0.1 for a test that parses and 0.2 for one that also passes on the fixed files, instead of 0.
        repeats: runs on each tree.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("```python\nfrom calc import half\ndef test():\n    assert half(3) == 1.5\n```", 1.0, _WRITE),
        Golden("```python\nfrom calc import half\ndef test():\n    assert half(4) == 2\n```", 0.0, _WRITE),
        Golden("```python\ndef test():\n    assert False\n```", 0.0, _WRITE),
        Golden("```python\ndef helper():\n    pass\n```", 0.0, _WRITE),
        Golden("```python\ndef test(:\n```", 0.0, _WRITE),
        Golden("```python\ndef test():\n    assert '//' not in open('calc.py').read()\n```", 0.0, _WRITE),
        Golden("assert half(3) == 1.5", 0.0, _WRITE),
    )

    def __init__(self, test_s: float = 10.0, memory_mib: int = 512, partial: bool = False, repeats: int = 4) -> None:
        self._trials = WrittenTrialRunner(test_s, memory_mib, repeats)
        self._partial = partial
        self.needs_s = 2 * test_s

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward; see `Verifier.verify`."""
        before, after = field_of(record, "files", Mapping), fixed_files(record)
        answer = split_response(response.text).answer
        test = last_program(solution_part(answer), "python") if answer is not None else None
        if test is None:
            return Score(0.0, "no closed code block")
        trial = self._trials.run(before, after, _GENERATED, test, both=self._partial)
        if not trial.parses:
            return Score(0.0, "the test doesn't parse")
        if trial.on_fixed:
            return Score(0.1 if self._partial else 0.0, f"fails on the fixed code: {trial.on_fixed}")
        if not trial.on_broken:
            return Score(0.2 if self._partial else 0.0, "passes on the broken code too")
        return Score(1.0, trial.on_broken)
