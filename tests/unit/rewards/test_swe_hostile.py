"""Patches that attack the tests that judge them: none may pass, and honest ones still do."""

import pytest

from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.swe.execution import ExecuteVerifier
from nemo_cascade.rewards.verifier import VerifierError
from tests.support.hostile_patches import BROKEN, FILES, FIX, PATCHES, ROW, TESTS


def edits(calc=None, **files):
    parts = [f"### calc.py\n<<<<<<< SEARCH\n{BROKEN}\n=======\n{calc}\n>>>>>>> REPLACE\n"] if calc else []
    parts += [f"### {path}\n<<<<<<< SEARCH\n=======\n{text}\n>>>>>>> REPLACE\n" for path, text in files.items()]
    return Response("".join(parts))


@pytest.fixture(scope="module")
def verifier():
    return ExecuteVerifier(test_s=5.0)


def test_the_honest_patch_passes_and_the_row_is_sound(verifier):
    assert verifier.verify(ROW, edits(FIX)) == 1.0
    unchanged = verifier.verify(ROW, edits(BROKEN))
    assert unchanged == 0.0
    assert "test_odd" in unchanged.detail


@pytest.mark.parametrize("name", PATCHES)
def test_no_patch_passes_by_an_attack(verifier, name):
    assert verifier.verify(ROW, edits(PATCHES[name])) == 0.0


@pytest.mark.parametrize("path", FILES)
def test_no_file_of_a_patch_makes_broken_code_pass(verifier, path):
    assert verifier.verify(ROW, edits(**{path: FILES[path]})) == 0.0


def test_helpers_of_tests_are_the_rows_own(verifier):
    lax = "### tests/helpers.py\n<<<<<<< SEARCH\n    return abs(a - b) < 1e-9\n=======\n    return True\n"
    lax += ">>>>>>> REPLACE\n"
    weak = {**ROW, "test_files": {"tests/test_calc.py": TESTS.replace("self.assertEqual(half(3), 1.5)", "pass")}}
    assert verifier.verify(weak, Response(lax)) == 0.0
    assert verifier.verify(weak, edits(FIX)) == 1.0


def test_packages_relative_imports_and_new_modules_of_a_patch_are_found(verifier):
    tests = """
import pkg.core
from pkg import core as again, extra
from pkg.core import Counter, double
from .helpers import ONE
def test_all():
    assert double(ONE) == 2 and pkg.core.double(2) == again.double(2) == 4
    assert extra.triple(1) == 3 and Counter(2).add(3) == 5
    counter, got = Counter(1), []
    assert isinstance(counter, Counter) and counter.n == 1
    got = [1]
    pkg.core.grow(got)
    assert got == [1, 1]
"""
    core = "from . import util\ndef double(x): return util.times(x, 2)\ndef grow(a): a.extend(a)\n"
    core += "class Counter:\n    def __init__(self, n): self.n = n\n    def add(self, m): return self.n + m\n"
    files = {"pkg/__init__.py": "", "pkg/core.py": core, "pkg/util.py": "def times(a, b): return a\n"}
    row = {
        "files": {**files, "pkg/tests/helpers.py": "ONE = 1\n"},
        "fixed_files": {
            "pkg/util.py": "def times(a, b): return a * b\n",
            "pkg/extra.py": "def triple(x): return 3*x\n",
        },
        "test_files": {"pkg/tests/test_core.py": tests},
        "fail_to_pass": ["pkg/tests/test_core.py"],
    }
    util = "### pkg/util.py\n<<<<<<< SEARCH\ndef times(a, b): return a\n=======\ndef times(a, b): return a * b\n"
    extra = ">>>>>>> REPLACE\n### pkg/extra.py\n<<<<<<< SEARCH\n=======\ndef triple(x): return 3 * x\n>>>>>>> REPLACE\n"
    fixed = verifier.verify(row, Response(util + extra))
    assert fixed == 1.0, fixed.detail
    assert verifier.verify(row, Response(util + ">>>>>>> REPLACE\n")) == 0.0


@pytest.mark.parametrize(
    "tests",
    [
        "from unittest import mock\nimport calc\ndef test():\n"
        "    with mock.patch('calc.half', return_value=7):\n        assert calc.whole(1) == 14\n",
        "import calc\nclass Mine(calc.Base):\n    pass\ndef test():\n    assert Mine().n == 1\n",
    ],
)
def test_tests_that_can_not_run_apart_are_no_verdict_on_a_patch(verifier, tests):
    calc = "class Own(Exception): pass\nclass Base:\n    n = 1\n    def __eq__(self, o): return True\n"
    calc += "def half(x): return x\ndef whole(x): return 2 * half(x)\ndef call(f): return f()\ndef fail(): raise Own\n"
    row = {
        "files": {"calc.py": calc + BROKEN},
        "fixed_files": {"calc.py": calc + FIX},
        "test_files": {"test_it.py": tests},
        "fail_to_pass": ["test_it.py"],
    }
    with pytest.raises(VerifierError, match=r"record: the golden patch fails its tests|the tests can't be run"):
        verifier.verify(
            row, Response("### calc.py\n<<<<<<< SEARCH\n    return x // 2\n=======\n    return 0\n>>>>>>> REPLACE")
        )


@pytest.mark.parametrize(
    "tests",
    [
        "def test():\n    assert calc.call(lambda: 3) == 3 and calc.half(3) == 1.5\n",
        "def test():\n    try: calc.fail()\n    except calc.Own: pass\n    assert calc.half(3) == 1.5\n",
        "def test():\n    with pytest.raises(calc.Own): calc.fail()\n    assert calc.half(3) == 1.5\n",
        "def test():\n    assert calc.Base() == calc.Base() and calc.half(3) == 1.5\n",
    ],
)
def test_functions_exceptions_and_objects_cross_to_the_patched_code(verifier, tests):
    calc = "class Own(Exception): pass\nclass Base:\n    def __eq__(self, o): return True\n"
    calc += "def call(f): return f()\ndef fail(): raise Own\n"
    row = {
        "files": {"calc.py": calc + BROKEN},
        "fixed_files": {"calc.py": calc + FIX},
        "test_files": {"test_it.py": "import calc, pytest\n" + tests},
        "fail_to_pass": ["test_it.py"],
    }
    edit = "### calc.py\n<<<<<<< SEARCH\n    return x // 2\n=======\n    return {}\n>>>>>>> REPLACE"
    assert verifier.verify(row, Response(edit.format("x / 2"))) == 1.0
    assert verifier.verify(row, Response(edit.format("0"))) == 0.0
