"""What an unreviewed patch can be held to: a repository's own tests, and tests that were written for its issue.

Neither is hidden from whoever writes patches, so neither says that a patch is right. They choose among several
(`evaluation/picking.py`), as Agentless does (arXiv 2407.01489; arXiv 2512.13607, section 4.7).
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.swe.edits import EditError, apply_edits, parse_edits
from nemo_cascade.rewards.swe.modules import belongs_to_tests, share_out
from nemo_cascade.rewards.swe.trial import ApartTrialRunner, Trial, WrittenTrialRunner
from nemo_cascade.rewards.verifier import Golden, Score, field_of

_OWN = "from calc import half\ndef test_even(): assert half(4) == 2\ndef test_odd(): assert half(3) == 1.5\n"
_FILES = {"calc.py": "def half(x):\n    return x // 2\n", "test_calc.py": _OWN}
_WRITTEN = "from calc import half\ndef test_half():\n    assert half(3) == 1.5\n"
_IDLE = "from calc import half\ndef test_half():\n    assert half(4) == 2\n"
_EDIT = "### calc.py\n<<<<<<< SEARCH\n    return x // 2\n=======\n    return {}\n>>>>>>> REPLACE\n"
_WRITTEN_PATH = "test_reproduction.py"
_MOST_REMEMBERED = 4096


def patched_files(files: Mapping[str, str], text: str) -> dict[str, str]:
    """Return the files after a response's edits.

    Raises:
        EditError: the edits can't be read or applied.
    """
    answer = split_response(text).answer
    if answer is None:
        raise EditError("thinking never ended")
    return apply_edits(files, parse_edits(answer, files))


class RegressionVerifier:
    """Score the share of the repository's own tests that pass on the files after the edits, of those that pass before.

    They are the tests in the row's `files`; a row that has none that passes gives 1 to every patch that fits. They
    never share a process with the patched code (`ApartTrialRunner`). An answer that is no patch scores 0.

    Args:
        test_s: CPU seconds of all tests together.
        memory_mib: memory of the run.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(f"<think>x</think>\n{_EDIT.format('x / 2')}", 1.0, {"files": _FILES}),
        Golden(_EDIT.format("x // 3"), 0.0, {"files": _FILES}),
        Golden("no idea", 0.0, {"files": _FILES}),
        Golden(_EDIT.format("__import__('os')._exit(0)"), 0.0, {"files": _FILES}),
        Golden("", None, {}, error="record"),
    )

    def __init__(self, test_s: float = 20.0, memory_mib: int = 512) -> None:
        self._trials = ApartTrialRunner(test_s, memory_mib)
        self._passing: dict[bytes, tuple[str, ...]] = {}
        self.needs_s = 2 * test_s

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the share; see `Verifier.verify`."""
        files = field_of(record, "files", Mapping)
        try:
            patched = patched_files(files, response.text)
        except EditError as error:
            return Score(0.0, f"no patch: {error}")
        tests = self._passing_before(files)
        if not tests:
            return Score(1.0, "no test of its own passes")
        trial = self._run(files, patched, tests)
        passed = 0 if trial.problem else sum(trial.failures.get(test) == "" for test in tests)
        return Score(passed / len(tests), trial.told(tests) or f"{passed} tests passed")

    def _passing_before(self, files: Mapping[str, str]) -> tuple[str, ...]:
        """Return the repository's own tests that pass as it is; each repository's are tried once."""
        key = hashlib.blake2b(json.dumps(sorted(files.items())).encode()).digest()
        if key not in self._passing:
            if len(self._passing) >= _MOST_REMEMBERED:
                self._passing.clear()
            tests = tuple(own_tests(files))
            trial = self._run(files, files, tests) if tests else Trial({})
            self._passing[key] = tuple(test for test in tests if trial.failures.get(test) == "")
        return self._passing[key]

    def _run(self, files: Mapping[str, str], patched: Mapping[str, str], tests: Sequence[str]) -> Trial:
        return self._trials.run(patched, share_out(files, patched, {}, None), tests)


class ReproductionVerifier:
    """Score 1 if the row's `reproduction_test` fails on its `files` each time, and passes after the edits each time.

    So a test that passes before, and one that never passes, counts for no patch. The test is a model's, as the patch
    is: how it is tried, and what keeps it from looking at the code, says `WrittenTrialRunner`.

    Args:
        test_s: CPU seconds of all runs on one tree together.
        memory_mib: memory of a run.
        repeats: runs on each tree.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(_EDIT.format("x / 2"), 1.0, {"files": _FILES, "reproduction_test": _WRITTEN}),
        Golden(_EDIT.format("x"), 0.0, {"files": _FILES, "reproduction_test": _WRITTEN}),
        Golden(_EDIT.format("x / 2"), 0.0, {"files": _FILES, "reproduction_test": _IDLE}),
        Golden("no idea", 0.0, {"files": _FILES, "reproduction_test": _WRITTEN}),
        Golden("", None, {"files": _FILES}, error="record"),
    )

    def __init__(self, test_s: float = 10.0, memory_mib: int = 512, repeats: int = 2) -> None:
        self._trials = WrittenTrialRunner(test_s, memory_mib, repeats)
        self.needs_s = 2 * test_s

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        files, test = field_of(record, "files", Mapping), field_of(record, "reproduction_test", str)
        try:
            patched = patched_files(files, response.text)
        except EditError as error:
            return Score(0.0, f"no patch: {error}")
        trial = self._trials.run(files, patched, _WRITTEN_PATH, test, both=False)
        if not trial.parses:
            return Score(0.0, "the test doesn't parse")
        if trial.on_fixed:
            return Score(0.0, f"fails after the edits: {trial.on_fixed}")
        if not trial.on_broken:
            return Score(0.0, "passes before the edits too")
        return Score(1.0, trial.on_broken)


def own_tests(files: Mapping[str, str]) -> Iterator[str]:
    """Yield the ids of the tests in a repository's own test files, as pytest would find them by their names."""
    for path, text in sorted(files.items()):
        if not belongs_to_tests(path) or not path.endswith(".py"):
            continue
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                yield f"{path}::{node.name}"
            elif isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or _is_unittest(node)):
                names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                yield from (f"{path}::{node.name}::{name}" for name in names if name.startswith("test"))


def _is_unittest(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("TestCase") for base in node.bases)
