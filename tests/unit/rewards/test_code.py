import base64
import json
import os
import pickle
import shutil
import zlib

import pytest

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.code.block import code_blocks, last_program
from nemo_cascade.rewards.code.formats import read_tests
from nemo_cascade.rewards.code.output import OutputRule, same_output
from nemo_cascade.rewards.code.tests import CallTest, StdioTest
from nemo_cascade.rewards.code.verify import CodeVerifier, _spread
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError


@pytest.fixture(scope="module")
def verifier():
    return CodeVerifier(per_test_s=2.0, total_s=4.0)


def fenced(program, tag="python"):
    return Response(f"<think>\n```python\nprint('draft')\n```\n</think>\n```{tag}\n{program}\n```")


def packed(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def test_last_closed_block_of_the_language_counts():
    answer = "```python\na\n```\n```py\nb\n```\n```bash\nc\n```\n~~~\nd\n~~~\n```python\ncut off"
    assert [block.text for block in code_blocks(answer)] == ["a\n", "b\n", "c\n", "d\n"]
    assert last_program(answer, "python") == "b\n"
    assert last_program("```\na\n```\n```text\nb\n```", "python") == "a\n"
    assert last_program("```python\na\n```\n```bash\nc\n```", "python") == "a\n"
    assert last_program("````python\na = '''\n```\n'''\n````", "python") == "a = '''\n```\n'''\n"
    assert last_program("no block", "python") is None
    use = "```python\nclass A:\n    pass\n```\nUse it so:\n```python\nA()\n```"
    assert last_program(use, "python", ["A", "b"]) == "class A:\n    pass\n"
    assert last_program(use, "python", ["b"]) == "A()\n"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("- so:\n\n  ```python\n  if a:\n      b\n  ```\n", "if a:\n    b\n"),
        ("1. a\n   1. b\n\n      ~~~py\n      x\n\n      y\n      ~~~\n", "x\n\ny\n"),
        ("> ```python\n> x = 1\n> y\n> ```\n", "x = 1\ny\n"),
        ("```Python3.12 title='a.py'\nx\n```", "x\n"),
        ("``` {.python .numberLines}\nx\n```", "x\n"),
        ("```python\r\nx\r\n```\r\n", "x\r\n"),
        ("```python\ndef f():\n    '''\n    ```\n    '''\n```", "def f():\n    '''\n    ```\n    '''\n"),
        ("```print(1)``` is one\n```python\nx\n```", "x\n"),
    ],
)
def test_fences_stand_as_markdown_has_them(answer, program):
    assert last_program(answer, "python") == program


def test_formats_of_the_public_sets_are_read():
    stdio = (StdioTest("1 2\n", "3\n"), StdioTest("4\n5", "9"))
    apps = {"inputs": ["1 2\n", ["4", "5"]], "outputs": ["3\n", [9]]}
    assert read_tests({"input_output": json.dumps(apps)}).stdio == stdio
    cases = [{"input": t.stdin, "output": t.expected, "testtype": "stdin"} for t in stdio]
    row = {"public_test_cases": json.dumps(cases[:1]), "private_test_cases": packed(cases[1:])}
    assert read_tests(row).stdio == stdio
    functional = [{"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional"}]
    row = {"public_test_cases": functional, "metadata": '{"func_name": "f"}'}
    assert read_tests(row).calls == (CallTest(([1, 2], "x"), ([3],)),)
    named = {"fn_name": "f", "inputs": [[[1]], [[2]]], "outputs": [[5], 6]}
    assert read_tests({"input_output": named}).calls == (CallTest(([1],), (5, [5])), CallTest(([2],), (6,)))


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_unusable_tests_are_record_errors():
    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    rows = [
        {},
        {"tests": []},
        {"tests": "not json"},
        {"tests": [{"stdin": "1"}]},
        {"input_output": {"inputs": ["1"], "outputs": []}},
        {"input_output": {"inputs": [], "outputs": []}},
        {"public_test_cases": [{"input": "1", "output": "1", "testtype": "functional"}]},
        {"private_test_cases": evil},
        {"private_test_cases": "!!!"},
        {"test": "def check(c): pass"},
        {"test": "def check(c): pass", "entry_point": "f"},
        {"tests": ["f(1)", "True"]},
        {"tests": ["def verify():\n    assert f(1) == 2\n"]},
        {"test": "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): f(1)\n"},
        {"tests": ["assert f(1) == 2"], "entry_point": "f; import os"},
        {"tests": [{"stdin": "1", "expected": "1"}], "language": "cobol"},
    ]
    for row in rows:
        with pytest.raises(VerifierError, match="record"):
            CodeVerifier().verify(row, Response("```cobol\nprint(1)\n```"))


def test_pickled_cases_can_not_run_code(verifier):
    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(VerifierError, match=r"names (posix|os)\.system"):
        verifier.verify({"private_test_cases": evil}, fenced("print(1)"))


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1  2 \n3\n\n", "1 2\n3", True),
        ("1 2 3", "1 2\n3", False),
        ("1\n\n2", "1\n2", False),
        ("3", "\n3\n", True),
        ("50000000000000000.0", "50000000000000001.0", False),
        ("3", "3.0", True),
        ("2.999999999", "3.0", True),
        ("1.00000000000000000001", "1.0", True),
        ("-0.0", "0.0", True),
        ("1" * 50_000 + "x", "1.5", False),
        ("0.3333333", "0.33333334", True),
        ("0.5", "0.50", True),
        ("5e-1", "0.5", True),
        ("1", "1.0", True),
        ("1.0", "1", False),
        ("1000000", "1000001", False),
        ("1.0000001 1000001", "1.0 1000000", False),
        ("nan", "1.0", False),
        ("inf", "1e999", False),
        ("YES", "Yes", False),
        ("", "", True),
        ("x", "", False),
    ],
)
def test_outputs_are_compared_by_line_and_numbers_within_a_tolerance(actual, expected, same):
    assert same_output(actual, expected) is same


@pytest.mark.parametrize(
    ("flags", "actual", "expected", "same"),
    [
        ("", "1 2\n\n3", "1\n2 3\n", True),
        ("", "1 2", "1 2 3", False),
        ("", "YES", "Yes", True),
        ("", "Ä", "ä", False),  # ASCII letters only
        ("", "0.50", "0.5", False),
        ("case_sensitive", "YES", "Yes", False),
        ("case_sensitive", "a\nb", "a b", True),
        ("space_change_sensitive", "a  b\n", "a b\n", False),
        ("space_change_sensitive", "a b", "a b\n", False),
        ("space_change_sensitive", "A b\n", "a B\n", True),
        ("float_tolerance 1e-3", "0.5004", "0.5", True),
        ("float_tolerance 1e-3", "2.1", "2", False),
        ("float_tolerance 1e-3", "1000.9 x", "1000 X", True),
        ("float_tolerance 1e-3", "1000000000001", "1000000000000", True),
        ("float_absolute_tolerance 1e-3", "1000.9", "1000", False),
        ("float_relative_tolerance 1e-3", "1000.9", "1000", True),
        ("float_relative_tolerance 1e-3", "0.0001", "0", False),
        ("float_tolerance 1e-3 space_change_sensitive", "0.5004 1\n", "0.5 1\n", True),
        ("float_tolerance 1e-3", "nan", "0.5", False),
    ],
)
def test_a_problem_packages_flags_say_how_its_outputs_are_compared(flags, actual, expected, same):
    assert same_output(actual, expected, OutputRule.of_package(flags)) is same


def test_rules_of_the_settings_and_of_a_row():
    program = fenced("print('YES 1', 2)")
    lines = {"tests": [{"stdin": "", "expected": "YES 1\n2\n"}]}
    capital = {"tests": [{"stdin": "", "expected": "Yes 1 2\n"}]}
    assert [CodeVerifier().verify(row, program) for row in (lines, capital)] == [0.0, 0.0]
    assert [CodeVerifier(whitespace="words").verify(row, program) for row in (lines, capital)] == [1.0, 0.0]
    assert [CodeVerifier(any_case=True).verify(row, program) for row in (lines, capital)] == [0.0, 1.0]
    both = {"tests": [{"stdin": "", "expected": "yes\n1\n2\n"}]}
    assert CodeVerifier().verify({**both, "validator_flags": ""}, program) == 1.0
    held = {"verification_info": {"test_cases": [{"input": "", "output": "yes 1\n2"}]}, "validator_flags": ""}
    assert CodeVerifier().verify(held, program) == 1.0
    strict = {**both, "validator_flags": "case_sensitive"}
    assert CodeVerifier(whitespace="words", any_case=True).verify(strict, program) == 0.0


@pytest.mark.parametrize("flags", ["weakly_connected", "float_tolerance", "float_tolerance case_sensitive", 3])
def test_flags_that_the_default_validator_lacks_are_a_record_error(flags):
    with pytest.raises(VerifierError, match=r"record.*validator_flags"):
        CodeVerifier().verify({"tests": [{"stdin": "", "expected": ""}], "validator_flags": flags}, fenced("pass"))


def test_stdio_program_must_pass_every_test(verifier):
    row = {"tests": [{"stdin": f"{n}\n", "expected": f"{n * n}\n"} for n in (1, 2, 30)]}
    assert verifier.verify(row, fenced("print(int(input()) ** 2)")) == 1.0
    assert verifier.verify(row, fenced("n = int(input())\nprint(n * n if n < 9 else 0)")) == 0.0
    assert verifier.verify(row, fenced("import sys; sys.exit(0)")) == 0.0
    assert verifier.verify(row, Response("<think>```python\nprint(int(input()) ** 2)\n```")) == 0.0


def test_cheapest_test_runs_first_and_the_first_failure_ends_it(verifier):
    row = {"tests": [{"stdin": "x" * 999, "expected": "slow"}, {"stdin": "", "expected": "a"}]}
    program = "import sys\nif sys.stdin.read():\n    while True: pass\nprint('b')"
    score = verifier.verify(row, fenced(program))
    assert score == 0.0
    assert "test 1 of 2: printed 'b" in score.detail


def test_program_over_its_time_fails_and_says_so(verifier):
    row = {"tests": [{"stdin": "", "expected": "a"}]}
    score = CodeVerifier(per_test_s=1.0, total_s=4.0).verify(row, fenced("while True: pass"))
    assert score == 0.0
    assert "timeout" in score.detail


def test_many_tests_are_thinned_evenly_from_small_to_large():
    assert _spread(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert _spread([1, 2], 5) == [1, 2]


def test_calls_compare_values_not_what_a_program_makes_of_them(verifier):
    row = {"input_output": {"fn_name": "f", "inputs": [[[3, 1]], [[2]]], "outputs": [[[1, 3]], [[2]]]}}
    assert verifier.verify(row, fenced("def f(x):\n    return sorted(x)")) == 1.0
    assert verifier.verify(row, fenced("def f(x):\n    return tuple(sorted(x))")) == 1.0
    assert verifier.verify(row, fenced("class Solution:\n    def f(self, x):\n        return sorted(x)")) == 1.0
    assert verifier.verify(row, fenced("def f(x):\n    return x")) == 0.0
    assert verifier.verify(row, fenced("def g(x):\n    return sorted(x)")) == 0.0
    truthy = {"input_output": {"fn_name": "f", "inputs": [[1]], "outputs": [[True]]}}
    assert verifier.verify(truthy, fenced("def f(x):\n    return 1")) == 0.0
    real = {"input_output": {"fn_name": "f", "inputs": [[1]], "outputs": [[0.3333333333]]}}
    assert verifier.verify(real, fenced("def f(x):\n    return 1 / 3")) == 1.0


ATTACKS = {
    "equal to everything": "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()",
    "shadowed built-ins": "len = isinstance = all = any = type = abs = lambda *a: True\ndef f(x): return 1",
    "shadowed helpers": "_same = _any = _function = check = candidate = lambda *a: True\ndef f(x): return 1",
    "exit": "import os\nos._exit(0)\ndef f(x): return 1",
    "raises SystemExit": "def f(x): raise SystemExit(0)",
    "str subclass": "class S(str):\n    def __eq__(self, o): return True\ndef f(x): return S('a')",
    "int subclass": "class I(int):\n    __eq__ = __sub__ = lambda s, o: True\ndef f(x): return I(5)",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_on_the_checker_score_zero(verifier, attack):
    calls = {"input_output": {"fn_name": "f", "inputs": [[1]], "outputs": [[[1, 2]]]}}
    humaneval = {
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert abs(candidate(1) - 7) < 1e-6\n    assert len([candidate(2)]) == 2",
    }
    mbpp = {"test_list": ["assert abs(f(1) - 7) < 1e-6", "assert set(f(2)) == {3}"]}
    for row in (calls, humaneval, mbpp):
        assert verifier.verify(row, fenced(attack)) == 0.0


def test_function_under_test_may_have_a_builtin_name(verifier):
    row = {"test_list": ["assert sum(10, 15) == 6", "assert sum(100, 150) == 93"]}
    program = "def sum(a, b):\n    total = 0\n    for i in range(1, min(a, b) + 1):\n"
    program += "        if a % i == 0 and b % i == 0: total += i\n    return total"
    assert verifier.verify(row, fenced(program)) == 1.0


def test_asserts_with_setup_are_judged(verifier):
    row = {"test_list": ["assert area(1) == math.pi"], "test_imports": ["import math"]}
    assert verifier.verify(row, fenced("import math\ndef area(r):\n    return math.pi * r * r")) == 1.0
    assert verifier.verify(row, fenced("def area(r):\n    return 3.14 * r * r")) == 0.0
    with pytest.raises(VerifierError, match="record"):
        verifier.verify({"test_list": ["assert ("]}, fenced("x = 1"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
def test_cpp_program_is_compiled_and_judged():
    row = {"tests": [{"stdin": "2 3", "expected": "5"}], "language": "cpp"}
    program = "#include <iostream>\nint main(){int a,b;std::cin>>a>>b;std::cout<<a+b;}"
    verifier = CodeVerifier()
    assert verifier.verify(row, fenced(program, "cpp")) == 1.0
    assert verifier.verify(row, fenced("int main(){", "cpp")) == 0.0


def test_code_switch_scores_what_is_configured(verifier):
    row = {"tests": [{"stdin": "", "expected": "1"}]}
    response = Response("<think>先想</think>\n```python\nprint(1)\n```")
    assert verifier.verify(row, response) == 1.0
    assert CodeVerifier(mixed_language_score=0.0).verify(row, response) == 0.0


def test_the_runs_sandbox_block_reaches_every_verifier():
    row = {"entry_point": "two", "tests": [{"arguments": [], "expected": 2}]}
    answer = fenced("import numpy\ndef two(): return int(numpy.array([1, 1]).sum())")
    for packages, score in ((["numpy"], 1.0), ([], 0.0)):
        config, mix = SandboxConfig(packages=packages), {"terms": [{"reward": {"kind": "code"}}]}
        reward = RewardConfig(workers=1, deadline_s=180.0)
        with VerifierPool(reward, sandbox=config) as pool:
            for name, settings in (("code", {}), ("mix", mix)):
                pool.submit(name, name, row, answer, settings)
            assert {key: verdict.score for key, verdict in pool.drain()} == {"code": score, "mix": score}
