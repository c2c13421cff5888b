"""Patches held to a repository's own tests and to written ones, in the real sandbox."""

import pytest

from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.swe.validation import RegressionVerifier, ReproductionVerifier, own_tests

TESTS = """import unittest
import pytest
from pkg.a import f, g


def test_f():
    assert f(2) == 2


@pytest.mark.parametrize("x", [1, 2])
def test_g(x):
    assert g(x) == -x


class TestBoth:
    def test_zero(self):
        assert f(0) == g(0)

    def helper(self):
        return 1


class Further(unittest.TestCase):
    def test_broken(self):
        self.assertEqual(f(3), 4)
"""
FILES = {
    "pkg/__init__.py": "",
    "pkg/a.py": "def f(x):\n    return x\n\n\ndef g(x):\n    return -x\n",
    "tests/test_a.py": TESTS,
    "tests/data.txt": "x",
    "tests/test_bad.py": "def (",
}
NAMES = ["test_f", "test_g", "TestBoth::test_zero", "Further::test_broken"]


def edit(search, replace, path="pkg/a.py"):
    return f"### {path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


EASIER = edit("    assert f(2) == 2", "    assert True", "tests/test_a.py")


@pytest.fixture(scope="module")
def regression():
    return RegressionVerifier(test_s=10.0)


def test_a_repositorys_own_tests_are_found_by_their_names():
    assert list(own_tests(FILES)) == [f"tests/test_a.py::{name}" for name in NAMES]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        (edit("    return -x", "    return 0 - x"), 1.0),
        (edit("    return -x", "    return x"), 2 / 3),  # test_broken failed before: it doesn't count
        (edit("    return x\n", "    return x + 1\n"), 1 / 3),
        (EASIER + edit("    return x\n", "    return 7\n"), 1 / 3),
        (edit("def f(x):", "import os\nos._exit(0)\ndef f(x):"), 0.0),
        ("nothing", 0.0),
    ],
)
def test_the_score_is_the_share_of_own_tests_that_go_on_passing(regression, text, due):
    assert regression.verify({"files": FILES}, Response(text)) == pytest.approx(due)


def test_a_repository_without_tests_has_nothing_to_break(regression):
    files = {"pkg/a.py": FILES["pkg/a.py"]}
    assert regression.verify({"files": files}, Response(edit("    return -x", "    return x"))) == 1.0


@pytest.mark.parametrize(
    ("test", "due"),
    [
        ("from pkg.a import g\ndef test():\n    assert g(2) == 2\n", 1.0),
        ("from pkg.a import g\ndef test():\n    assert g(0) == 0\n", 0.0),  # passes before
        ("from pkg.a import g\ndef test():\n    assert g(2) == 3\n", 0.0),  # fails afterwards
        ("def test():\n    assert 'return x\\n' in open('pkg/a.py').read()\n", 0.0),  # looks at the code
        ("def test(:\n", 0.0),
    ],
)
def test_a_reproduction_test_counts_where_the_patch_alone_makes_it_pass(test, due):
    record = {"files": FILES, "reproduction_test": test}
    assert ReproductionVerifier(test_s=5.0).verify(record, Response(edit("    return -x", "    return x"))) == due
