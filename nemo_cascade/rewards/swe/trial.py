"""Run tests on a small tree of files in the sandbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_cascade.rewards.confined import ConfinedRuns
from nemo_cascade.rewards.swe.modules import (
    Modules,
    belongs_to_tests,
    module_names,
    share_out,
    source_folders,
    with_folders,
)

_ENTRY = "run_tests_of_the_sandbox.py"
_LOAD = "load_module_of_the_tree"


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


@dataclass(frozen=True, slots=True)
class WrittenTrial:
    """How a written test did on one tree.

    Attributes:
        parses: whether it is Python.
        passed: whether there is a test in it, and all passed.
        reason: why not.
    """

    parses: bool
    passed: bool
    reason: str


class TrialRunner:
    """Tries tests that a policy wrote on the row's own files, in one process: the tests are what is untrusted here.

    The test may call the code, patch it, subclass it and catch its exceptions, as tests do, but not look at it: its
    source and its byte code are hidden (`concealed.py`), and random numbers are the same in every run. What can't be
    hidden in one process: local variables of frames that an exception or a trace function shows, offsets into byte code
    in tracebacks, how long a call takes. The report is believed with a nonce that the test's process knows; a test that
    forges one wins no more than a test that passes or fails at random, which is caught by running it several times in
    an order that it doesn't know (`WriteTestVerifier`).

    Args:
        test_s: CPU seconds of one trial.
        memory_mib: memory of one trial.
    """

    def __init__(self, test_s: float, memory_mib: int) -> None:
        self._test_s = test_s
        self._runs = ConfinedRuns(memory_mib)

    def run(self, files: Mapping[str, str], path: str, test: str) -> WrittenTrial:
        """Try a test on files.

        Args:
            files: the tree.
            path: where the test is put.
            test: its text.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`).
        """
        from nemo_cascade.sandbox.program import Program

        nonce = secrets.token_hex(16)
        tree = {**files, path: test}
        names = module_names(tree)
        order = {
            "nonce": nonce,
            "tools": [_text("runner"), _text("concealed")],
            "pytest": _text("standin_pytest"),
            "test": path,
            "sources": {where: text for where, text in tree.items() if where.endswith(".py")},
            "packages": with_folders(names),
            "paths": names,
        }
        data = {where: text for where, text in files.items() if not where.endswith(".py")}
        program = Program(
            language="python",
            source=_text("written"),
            stdin=json.dumps(order),
            files=_encoded(data),
            entry=_ENTRY,
        )
        outcome = self._runs.run(program, self._test_s)
        told: dict[str, Any] = {}
        for line in outcome.stdout.splitlines():
            if line.startswith(nonce):
                told |= _parsed(line.removeprefix(nonce))
        if "reason" not in told:
            said = "doesn't parse" if told.get("parses") is False else f"{outcome.status} {outcome.detail}"
            return WrittenTrial(told.get("parses") is True, False, f"{said} {outcome.stderr.strip()[-200:]}".strip())
        return WrittenTrial(True, told["reason"] == "", str(told["reason"]))


def _parsed(line: str) -> dict[str, Any]:
    """Read one line of a report; what a test forged may be anything."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class ApartTrialRunner:
    """Runs trusted tests on untrusted code so that passing is proven: the two never share a process.

    The tests run in the sandbox's checker, which reports with a secret, as it does for functions (sandbox/judging.py).
    The patched tree lies in another process, which has neither tests nor expected values; the checker calls it through
    stand-ins (`apart.py`). So a patch can't end, patch or read what judges it: exit statuses, printed reports, exit
    handlers, a replaced unittest or conftest.py, overwritten test files and overridden `==` prove nothing. Nor do files
    that a patch adds: which modules the tests find, and which names `import *` gives them, the row's own files and its
    golden patch say (`share_out`).

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

    def run(self, patched: Mapping[str, str], modules: Modules, tests: Sequence[str]) -> Trial:
        """Run tests on patched files.

        Args:
            patched: the files as the patch left them.
            modules: which of them the tests find, from `share_out`.
            tests: ids.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`).
        """
        from nemo_cascade.sandbox.judging import FunctionTests
        from nemo_cascade.sandbox.program import Program

        tree = {path: text for path, text in patched.items() if not belongs_to_tests(path)}
        told = (modules.near, modules.first, modules.last, modules.star)
        setup = [f"exec({_text(name)!r}, globals())" for name in ("runner", "apart")]
        setup += [f"use_pytest({_text('standin_pytest')!r})", f"use_tree({_LOAD}, *{told!r})"]
        shim = f"import sys\nsys.path[1:1] = {source_folders(tree)!r}\ndef {_LOAD}(name):\n    import importlib\n"
        shim += "    return importlib.import_module(name)\n"
        program = Program(language="python", source=shim, files=_encoded(tree), entry=_ENTRY)
        suite = FunctionTests(tests=tuple(f"require({test!r})" for test in tests), setup="\n".join(setup))
        judgement = self._runs.judge(program, suite, self._test_s)
        outcomes = zip(tests, judgement.results, judgement.details, strict=True)
        return Trial({test: "" if passed else detail or "failed" for test, passed, detail in outcomes})


@cache
def _text(name: str) -> str:
    """Return the text of a module that runs inside the sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


def _encoded(files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode("utf-8", "replace") for path, text in files.items()}
