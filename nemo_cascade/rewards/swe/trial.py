"""Run tests on a small tree of files in the sandbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.rewards.confined import ConfinedRuns

_RUNNER = Path(__file__).with_name("runner.py")
_RUNNER_NAME = "run_tests_of_the_sandbox.py"


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests said: id -> reason of failure, empty where it passed; `problem` if nothing was reported."""

    failures: Mapping[str, str]
    problem: str = ""

    def passed(self, tests: Sequence[str]) -> bool:
        """All these tests passed."""
        return not self.problem and all(self.failures.get(test) == "" for test in tests)


class TrialRunner:
    """Runs trials in a sandbox that is started on first use, in the process that uses it.

    The report is believed only with a nonce that the tests' process was given before it loaded any file of the trial.
    That process also runs the code under test, so a patch that attacks the runner itself could forge a report; tests
    of single functions, which the code verifier judges, run apart from the program and have no such gap.

    Args:
        test_s: CPU seconds of one trial.
        memory_mib: memory of one trial.
    """

    def __init__(self, test_s: float, memory_mib: int) -> None:
        self._test_s = test_s
        self._runs = ConfinedRuns(memory_mib)

    def run(self, files: Mapping[str, str], tests: Sequence[str]) -> Trial:
        """Run tests on files.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`).
        """
        from nemo_cascade.sandbox.program import Program

        nonce = secrets.token_hex(16)
        program = Program(
            language="python",
            source=_RUNNER.read_text(encoding="utf-8"),
            stdin=json.dumps({"nonce": nonce, "tests": list(tests)}) + "\n",
            files={path: text.encode("utf-8", "replace") for path, text in files.items()},
            entry=_RUNNER_NAME,
        )
        outcome = self._runs.run(program, self._test_s)
        lines = [line for line in outcome.stdout.splitlines() if line.startswith(nonce)]
        if not lines:
            return Trial({}, f"no report: {outcome.status} {outcome.detail} {outcome.stderr.strip()[-200:]}")
        results = json.loads(lines[-1].removeprefix(nonce))
        return Trial({test: str(reason) for test, (_, reason) in results.items()})
