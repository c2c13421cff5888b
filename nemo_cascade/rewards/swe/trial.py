"""Run tests on a small tree of files in the sandbox."""

import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_cascade.rewards.sandboxed import ConfinedRuns
from nemo_cascade.rewards.swe.modules import (
    Modules,
    belongs_to_tests,
    module_names,
    source_folders,
    with_folders,
)
from nemo_cascade.sandbox.inside import foreign

_ENTRY = "run_tests_of_the_sandbox.py"
_LOAD = "load_module_of_the_tree"
_FOREIGN = Path(foreign.__file__).read_text(encoding="utf-8")  # what `runner.py` keeps failures with


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
    """How a written test did.

    Attributes:
        parses: whether it is Python.
        on_fixed: why it failed on the fixed tree, empty where it passed each time; None if it wasn't tried.
        on_broken: the same for the broken tree.
    """

    parses: bool
    on_fixed: str | None
    on_broken: str | None


class WrittenTrialRunner:
    """Tries tests that a policy wrote on the row's own files, in one process: the tests are what is untrusted here.

    The test may call the code, patch it, subclass it and catch its exceptions, as tests do, but not look at it: its
    source and its byte code are hidden (`concealed.py`), and random numbers are the same in every run. It runs several
    times on each tree, in an order that no run can know (`written.py`), and must do the same each time: a test that
    passes and fails at random, or by what it can learn of its run, is caught.

    What can't be hidden in one process: local variables of frames that an exception or a trace function shows, offsets
    into byte code in tracebacks, how long a call takes.

    Args:
        test_s: CPU seconds of all runs on one tree together.
        memory_mib: memory of a trial.
        repeats: runs on each tree.
    """

    def __init__(self, test_s: float, memory_mib: int, repeats: int) -> None:
        self._test_s, self._repeats = test_s, repeats
        self._runs = ConfinedRuns(memory_mib)
        self._draw = random.SystemRandom()

    def run(
        self, broken: Mapping[str, str], fixed: Mapping[str, str], path: str, test: str, both: bool
    ) -> WrittenTrial:
        """Try a test.

        Args:
            broken: the tree that it must fail on.
            fixed: the tree that it must pass on.
            path: where the test is put.
            test: its text.
            both: try it on the fixed tree though it passes on the broken one.

        Raises:
            VerifierError: the sandbox broke (kind `infrastructure`).
        """
        from nemo_cascade.sandbox.program import Program

        due = [True, False]
        self._draw.shuffle(due)
        trees = [fixed if shall_pass else broken for shall_pass in due]
        data = {
            f"{number}/{where}": text
            for number, tree in enumerate(trees)
            for where, text in tree.items()
            if not where.endswith(".py")
        }
        order = json.dumps({
            "tools": [_FOREIGN, _text("runner"), _text("concealed")],
            "pytest": _text("standin_pytest"),
            "path": path,
            "test": test,
            "trees": [_concealable({**tree, path: test}) for tree in trees],
            "order": self._order(),
            "due": due,
            "all": both,
            "run_s": self._test_s / self._repeats,
        })  # fmt: skip
        nonce = secrets.token_hex(16)
        stdin = f"{len(order):16d}{order}{nonce}"
        program = Program("python", _text("written"), stdin, _encoded(data), entry=_ENTRY)
        outcome = self._runs.run(program, 2 * self._test_s)
        said = next((line for line in outcome.stdout.splitlines() if line.startswith(nonce)), None)
        if said is None:
            return WrittenTrial(True, f"no report: {outcome.status} {outcome.detail} {outcome.stderr[-200:]}", None)
        told = json.loads(said.removeprefix(nonce))
        reasons: list[str | None] = [None, None]
        for number, reason in told["runs"]:
            passes = (reasons[number] in (None, "")) if due[number] else reason == ""
            reasons[number] = reason if reasons[number] is None or passes else reasons[number]
        return WrittenTrial(told["parses"], reasons[due.index(True)], reasons[due.index(False)])

    def _order(self) -> list[int]:
        """Return the trees' numbers in the order of the runs: one of each first, so that most tests end there."""
        first, rest = [0, 1], [0, 1] * (self._repeats - 1)
        self._draw.shuffle(first)
        self._draw.shuffle(rest)
        return first + rest


def _concealable(tree: Mapping[str, str]) -> dict[str, Any]:
    names = module_names(tree)
    sources = {where: text for where, text in tree.items() if where.endswith(".py")}
    return {"sources": sources, "packages": with_folders(names), "paths": names}


class ApartTrialRunner:
    """Runs trusted tests on untrusted code so that passing is proven: the two never share a process.

    The tests run in the sandbox's checker, which reports with a secret, as it does for functions (sandbox/judging.py).
    The patched tree lies in another process, which has neither tests nor expected values; the checker calls it through
    stand-ins (`apart.py`). So a patch can't end, patch or read what judges it: exit statuses, printed reports, exit
    handlers, a replaced unittest or conftest.py, overwritten test files and overridden `==` prove nothing. Nor do files
    that a patch adds: which modules the tests find, and which names `import *` gives them, the row's own files and its
    golden patch say (`share_out`).

    What remains possible: a patch may compute its answers from the arguments of the tests' calls (as any code may); a
    test that leaves the judgement to a helper of the repository (`repo.testing.assert_close`) or to the `==` of two of
    its objects believes these; and one that expects any exception whatever (`assertRaises(Exception)`) is content with
    a crash.

    What tests can't do here: subclass or patch (mock) the repository's classes and functions, or read its files. Such
    tests fail on every patch, the golden one too; see ExecuteVerifier.

    Args:
        test_s: CPU seconds of one trial.
        memory_mib: memory of one trial.
        files_mib: size of the patched tree's /tmp; None: the sandbox's own.
    """

    def __init__(self, test_s: float, memory_mib: int, files_mib: int | None = None) -> None:
        self._test_s = test_s
        self._runs = ConfinedRuns(memory_mib, files_mib=files_mib)

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
        setup = [f"exec({text!r}, globals())" for text in (_FOREIGN, _text("runner"), _text("apart"))]
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
    return {path: file_bytes(text) for path, text in files.items()}


def file_bytes(text: str) -> bytes:
    """Return the bytes of a file whose text holds what is no UTF-8 as lone surrogates (`surrogateescape`).

    Surrogates that stand for no byte become question marks.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
