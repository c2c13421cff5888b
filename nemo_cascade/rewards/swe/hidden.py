"""Judge a changed repository by tests that whoever changed it has not seen."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_cascade.rewards.swe.modules import share_out
from nemo_cascade.rewards.swe.trial import ApartTrialRunner
from nemo_cascade.rewards.verifier import Score, VerifierError

_MOST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a repository is judged by.

    Attributes:
        files: the repository as it was, path -> text.
        test_files: path -> text; put in the place of whatever stands there.
        tests: ids of those that must pass.
        golden: the files after the golden patch; None where the row has none.
    """

    files: Mapping[str, str]
    test_files: Mapping[str, str]
    tests: Sequence[str]
    golden: Mapping[str, str] | None


class HiddenTests:
    """Scores 1 where all tests pass, else 0; they never share a process with what they judge (`ApartTrialRunner`).

    Where there is a golden patch, nothing scores 0 by tests that the golden patch fails, too: that is an error
    `record`, except for a patch that brings the very module that its tests would judge by (a `numpy.py` of its own):
    it can't leave its group so.

    Args:
        test_s: CPU seconds of all tests together.
        memory_mib: memory of the run.
        files_mib: size of the /tmp that the repository must fit; None: the sandbox's own.
    """

    def __init__(self, test_s: float, memory_mib: int, files_mib: int | None = None) -> None:
        self._trials = ApartTrialRunner(test_s, memory_mib, files_mib)
        self._fails_golden: dict[bytes, str] = {}

    def score(self, hidden: Hidden, patched: Mapping[str, str]) -> Score:
        """Run the tests on a repository as a patch or an agent left it.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`), or the golden patch fails (kind `record`).
        """
        modules = share_out(hidden.files, patched, hidden.test_files, hidden.golden)
        trial = self._trials.run(patched, modules, hidden.tests)
        if trial.passed(hidden.tests):
            return Score(1.0, f"{len(hidden.tests)} tests passed")
        if hidden.golden is not None and (problem := self._golden_problem(hidden, hidden.golden)):
            if supplied := modules.supplied():
                return Score(0.0, f"the patch brings what its tests judge by: {', '.join(sorted(supplied))}")
            raise VerifierError("record", f"the golden patch fails its tests: {problem}")
        return Score(0.0, trial.told(hidden.tests))

    def _golden_problem(self, hidden: Hidden, golden: Mapping[str, str]) -> str:
        """Say which tests the golden patch fails; each row's is tried once."""
        facts = [dict(hidden.files), dict(golden), dict(hidden.test_files), list(hidden.tests)]
        key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode()).digest()
        if key not in self._fails_golden:
            if len(self._fails_golden) >= _MOST_REMEMBERED:
                self._fails_golden.clear()
            trial = self._trials.run(golden, share_out(hidden.files, golden, hidden.test_files, golden), hidden.tests)
            self._fails_golden[key] = "" if trial.passed(hidden.tests) else trial.told(hidden.tests)
        return self._fails_golden[key]
