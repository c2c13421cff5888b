"""Run tests on a small tree of files in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.rewards.confined import ConfinedRuns

_RUNNER = Path(__file__).with_name("runner.py")
_APART = Path(__file__).with_name("apart.py")
_RUNNER_NAME = "run_tests_of_the_sandbox.py"
_TEST_NAME = re.compile(r"test_.*\.py|.*_test\.py")
_LOAD = "load_module_of_the_tree"
_SHIM = f"""def {_LOAD}(name):
    import importlib
    return importlib.import_module(name)
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests said: id -> reason of failure, empty where it passed; `problem` if nothing was reported."""

    failures: Mapping[str, str]
    problem: str = ""

    def passed(self, tests: Sequence[str]) -> bool:
        """All these tests passed."""
        return not self.problem and all(self.failures.get(test) == "" for test in tests)

    def told(self, tests: Sequence[str]) -> str:
        """Say in short which of these tests failed, and why."""
        failed = [f"{test}: {self.failures.get(test, 'not run')}" for test in tests if self.failures.get(test) != ""]
        return self.problem or "; ".join(failed)[:500]


class TrialRunner:
    """Runs tests in one process with the code that they test: right where the tests, not the code, are untrusted.

    It is for tests that a policy wrote, tried on files of the row. The report is believed only with a nonce that the
    process was given before it loaded any file; a test that attacks its own runner could forge one, but as it never
    learns which files it is tried on, a forged report wins no more than a test that passes or fails at random.

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
            files=_encoded(files),
            entry=_RUNNER_NAME,
        )
        outcome = self._runs.run(program, self._test_s)
        lines = [line for line in outcome.stdout.splitlines() if line.startswith(nonce)]
        if not lines:
            return Trial({}, f"no report: {outcome.status} {outcome.detail} {outcome.stderr.strip()[-200:]}")
        results = json.loads(lines[-1].removeprefix(nonce))
        return Trial({test: str(reason) for test, (_, reason) in results.items()})


class ApartTrialRunner:
    """Runs trusted tests on untrusted code so that passing is proven: the two never share a process.

    The tests run in the sandbox's checker, which reports with a secret, as it does for functions (sandbox/judging.py).
    The patched tree lies in another process, which has neither tests nor expected values; the checker calls it through
    stand-ins (`apart.py`). So a patch can't end, patch or read what judges it: exit statuses, printed reports, exit
    handlers, a replaced unittest or conftest.py, overwritten test files and overridden `==` prove nothing.

    What remains possible: a patch may compute its answers from the arguments of the tests' calls (as any code may), and
    a test that leaves the judgement to a helper of the repository (`repo.testing.assert_close`) believes that helper,
    or that expects any exception whatever (`assertRaises(Exception)`) is content with a crash.

    What tests can't do here, since plain data alone crosses: hand over functions or objects of their own, subclass or
    patch (mock) the repository's classes and functions, expect its own exceptions, compare its objects with `==`, or
    read its files. Such tests fail on every patch, the golden one too; see ExecuteVerifier.

    Args:
        test_s: CPU seconds of one trial.
        memory_mib: memory of one trial.
    """

    def __init__(self, test_s: float, memory_mib: int) -> None:
        self._test_s = test_s
        self._runs = ConfinedRuns(memory_mib)

    def run(
        self, files: Mapping[str, str], patched: Mapping[str, str], test_files: Mapping[str, str], tests: Sequence[str]
    ) -> Trial:
        """Run tests on patched files.

        Args:
            files: as they were: trusted; of them the tests' own helpers are taken.
            patched: as the patch left them.
            test_files: the tests, trusted.
            tests: ids.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`).
        """
        from nemo_cascade.sandbox.judging import FunctionTests
        from nemo_cascade.sandbox.program import Program

        near = {path: text for path, text in files.items() if belongs_to_tests(path)} | dict(test_files)
        tree = {path: text for path, text in patched.items() if path not in near and not belongs_to_tests(path)}
        own = [_dotted(path) for path in files if path.endswith(".py") and path not in near]
        told = (
            {_dotted(path): text for path, text in near.items() if path.endswith(".py")},
            [_dotted(path) for path in tree if path.endswith(".py")],
            own,
        )
        texts = [file.read_text(encoding="utf-8") for file in (_RUNNER, _APART)]
        setup = [f"exec({text!r}, globals())" for text in texts] + [f"use_tree({_LOAD}, *{told!r})"]
        program = Program(language="python", source=_SHIM, files=_encoded(tree), entry=_RUNNER_NAME)
        suite = FunctionTests(tests=tuple(f"require({test!r})" for test in tests), setup="\n".join(setup))
        judgement = self._runs.judge(program, suite, self._test_s)
        outcomes = zip(tests, judgement.results, judgement.details, strict=True)
        return Trial({test: "" if passed else detail or "failed" for test, passed, detail in outcomes})


def belongs_to_tests(path: str) -> bool:
    """Whether a file is a test or a helper of tests by its name: the row's own version is used, never a patch's."""
    *folders, name = path.split("/")
    return bool({"test", "tests"} & set(folders)) or name == "conftest.py" or bool(_TEST_NAME.fullmatch(name))


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _encoded(files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode("utf-8", "replace") for path, text in files.items()}
