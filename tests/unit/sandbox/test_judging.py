# ruff: noqa: E501
"""Judging by tests in another process than the solution."""

import pytest

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.judging import FunctionTests
from nemo_cascade.sandbox.program import Program, Status

LIMITS = Limits()


def judge(sandbox, source, *tests, limits=LIMITS, **more):
    return sandbox.judge(Program("python", source), FunctionTests(tests, **more), limits)


def test_texts_of_a_subclass_of_str_are_judged_as_text(sandbox):
    class Text(str):
        """As numpy and pandas have them."""

    assert judge(sandbox, "def f(): return 1", Text("assert f() == 1")).passed
    assert not judge(sandbox, "def f(): return 1", Text("assert f() == 2")).passed


@pytest.mark.parametrize(
    ("source", "test"),
    [
        ("def f(x): return x", "v = [1, -2.5, 'ż', None, True, (1, (2,)), {1: {'a'}}, b'b', 2j, range(3), 10**5000]\nassert f(v) == v and type(f((1,))) is tuple"),
        ("def f(x): x.sort()", "v = [3, 1]\nassert f(v) is None and v == [1, 3]"),
        ("def f(d, s):\n    d['k'] = 1\n    s.add(2)", "d, s = {}, set()\nf(d, s=s)\nassert d == {'k': 1} and s == {2}"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("import itertools\ndef f(): return itertools.count(5)", "it = f()\nassert [next(it), next(it)] == [5, 6]"),
        ("def f(x): raise KeyError('gone')", "try:\n    f(1)\nexcept KeyError:\n    pass\nelse:\n    assert False"),
        ("class Mine(Exception): pass\ndef f(): raise Mine('x')", "try:\n    f()\nexcept Exception as e:\n    assert type(e).__name__ == 'Mine' and str(e) == 'x'\nelse:\n    assert False"),
        ("class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def __len__(self): return len(self.items)",
         "s = Stack()\ns.push(4)\nassert len(s) == 1 and s.items == [4] and isinstance(s, Stack)"),
        ("class P:\n    def __init__(self, x): self.x = x\ndef f(p): return p.x", "assert f(P(6)) == 6"),
        ("import collections\ndef f(w): return collections.Counter(w)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("import numpy as np\ndef f(x): return np.array(x) * 2", "assert f([1, 2]) == [2, 4]"),
        ("N = 5", "assert N == 5"),
        ("from datetime import *\nfrom decimal import Decimal\nfrom fractions import Fraction\ndef f(): return [date(2020, 1, 2), datetime(1, 2, 3, 4), timedelta(1, 2), Decimal('1.5'), Fraction(1, 3)]",
         "from datetime import *\nfrom decimal import Decimal\nfrom fractions import Fraction\nassert f() == [date(2020, 1, 2), datetime(1, 2, 3, 4), timedelta(1, 2), Decimal('1.5'), Fraction(1, 3)]"),
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, (n for n in (1, 2))) == [2, 3] and f(str.upper, ['a']) == ['A']"),
        ("def f(g): return g(3)\ndef h(x): return 2 * x", "assert f(lambda x: h(x) + 1) == 7"),
        ("class Broken(ValueError): pass\ndef f(): raise Broken('x')", "try:\n    f()\nexcept Broken as e:\n    assert isinstance(e, ValueError)\nelse:\n    assert False"),
        ("class C:\n    def __init__(self, x): self.x = x\n    def __eq__(s, o): return s.x == o.x\n    def __add__(s, o): return C(s.x + o.x)", "assert C(1) + C(2) == C(3) and C(1) != C(2)"),
        ("def f(a): a.sort(); return len(a)", "a = [2, 1]\nassert f(a) == 2; assert a == [1, 2]"),
        ("import heapq\ndef pop(h): return heapq.heappop(h)", "h = [1, 2, 3]\nassert [pop(h) for _ in range(3)] == [1, 2, 3] and len(h) == 1\nassert h == []"),
        ("table = [0] * 10 ** 7\ndef f(): return table[5]", "assert f() == 0"),
        ("import sys\nprint('noise')\ndef f(): return sys.stdin.read()", "assert f() == ''"),
    ],
)  # fmt: skip
def test_what_a_solution_returns_arrives_as_it_would_in_one_process(sandbox, source, test):
    judgement = judge(sandbox, source, test)
    assert judgement.passed, judgement


def test_tests_are_judged_one_by_one_with_reasons(sandbox):
    judgement = judge(
        sandbox,
        "def f(x): return 1 // x",
        "assert f(1) == 1",
        "assert f(1) == 2, 'two'",
        "f(0)",
        "assert f(1)==1; import sys; sys.exit(0)",
    )
    assert judgement.results == (True, False, False, False)
    assert "two" in judgement.details[1]
    assert "ZeroDivisionError" in judgement.details[2]
    assert judgement.unjudgeable is None


def test_the_form_of_human_eval_works(sandbox):
    check = "def check(candidate):\n    assert candidate([1.0, 2.0, 3.9, 4.0], 0.3) == True\n"
    source = "from typing import List\ndef near(xs: List[float], t: float) -> bool:\n    return any(abs(a - b) < t for i, a in enumerate(xs) for b in xs[:i])"
    assert judge(sandbox, source, check, entry_point="near").passed
    missing = judge(sandbox, "def far(): pass", check, entry_point="near")
    assert not missing.passed
    assert "defines no `near`" in missing.details[0]


def test_a_solution_that_ends_early_fails_with_its_reason(sandbox):
    broken = judge(sandbox, "def f(:", "assert f(1)")
    assert (broken.passed, broken.outcome.status) == (False, Status.ERROR)
    assert "SyntaxError" in broken.details[0]
    slow = judge(sandbox, "def f():\n    while True: pass", "f()", limits=Limits(wall_s=0.5))
    assert (slow.passed, slow.outcome.status) == (False, Status.TIMEOUT)


@pytest.mark.parametrize("test", ["import re\nassert f(re.compile('a'))", "assert f(", "f(open('/dev/null'))"])
def test_tests_that_can_not_be_judged_are_no_verdict_on_the_solution(sandbox, test):
    judgement = judge(sandbox, "def f(x): return True", test)
    assert judgement.unjudgeable is not None
    assert not judgement.passed


def test_function_tests_need_python(sandbox):
    with pytest.raises(SandboxError, match="need a Python solution"):
        sandbox.judge(Program("cpp", "int main(){}"), FunctionTests(("1",)))


NODES = """
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
def chain(values):
    first = None
    for value in reversed(values):
        first = Node(value, first)
    return first
def same(a, b):
    while a and b and a.value == b.value:
        a, b = a.next, b.next
    return a is None and b is None
"""


def test_objects_of_the_tests_own_classes_cross_by_value(sandbox):
    solution = (
        NODES
        + """
def turned(node):
    last = None
    while node:
        node.next, last, node = last, node, node.next
    return last
def cut(node):
    node.next = None
"""
    )
    tests = (
        "assert same(turned(chain(range(3000))), chain(range(2999, -1, -1)))",
        "c = chain([1, 2])\ncut(c)\nassert same(c, chain([1]))",
    )
    judgement = judge(sandbox, solution, *tests, setup=NODES)
    assert judgement.passed, judgement
    liar = solution.replace("return last", "return node") + "def same(a, b): return True\n"
    assert judge(sandbox, liar, *tests, setup=NODES).results == (False, True)


SUITES = {
    "functions": "def test_a():\n    assert f(1) == 2\ndef test_b():\n    assert f(2) == 4\n",
    "unittest": "import unittest\nclass Double(unittest.TestCase):\n    def setUp(self): self.x = 3\n    def test_a(self): self.assertEqual(f(self.x), 6)\n    def test_raises(self):\n        with self.assertRaises(TypeError): f(None)\nif __name__ == '__main__': unittest.main()\n",
    "unittest.main": "import unittest\nclass Double(unittest.TestCase):\n    def test_a(self): self.assertAlmostEqual(f(1.5), 3.0)\nunittest.main()\n",
    "classes": "class TestDouble:\n    def setup_method(self): self.x = 3\n    def test_a(self): assert f(self.x) == 6\n",
    "pytest": "import pytest\n@pytest.mark.parametrize('x, y', [(1, 2), (2, 4)])\ndef test_a(x, y): assert f(x) == y\n@pytest.fixture\ndef three(): return 3\ndef test_b(three): assert f(three) == pytest.approx(6.0)\ndef test_c():\n    with pytest.raises(TypeError): f(None)\n",
    "imports the solution": "from solution import f\ndef test_a(): assert f(1) == 2\n",
    "imports the solution whole": "import solution\ndef test_a(): assert solution.f(1) == 2\n",
}  # fmt: skip


@pytest.mark.parametrize("test", SUITES.values(), ids=SUITES)
def test_suites_are_run_as_pytest_would(sandbox, test):
    right = judge(sandbox, "def f(x): return x + x if x is not None else x + 1", test)
    assert right.passed, right
    for wrong in (
        "def f(x): return x",
        "def g(x): return 2 * x",
        "def f(x): raise AssertionError",
        "import os\ndef f(x): os._exit(0)",
    ):
        judgement = judge(sandbox, wrong, test)
        assert not judgement.passed, wrong
        assert judgement.unjudgeable is None
