"""Reference solutions of released code sets pass, and mutants of them fail; the sets lie in a folder of the user's.

NEMO_CASCADE_CODE_SETS names it. In it, as far as they are there:
    leetcode/*.jsonl        rows as LeetCodeDataset ships them (github.com/newfacade/LeetCodeDataset, data/*.jsonl.gz)
    stdin/**/problem.yaml   problem packages with data/ and submissions/accepted/*.py (github.com/Kodsport)
    pytest/**/*_test.py     exercises with .meta/example.py beside them (github.com/exercism/python)
NEMO_CASCADE_CODE_SETS_MOST limits the problems of each set (default 200).

For stdin, clone some of Kodsport's repositories into it, with their symbolic links: swedish-olympiad-2024-public,
swedish-olympiad-2025-public, swedish-olympiad-2021, kth-challenge-2021 and po-kattis-training have 90 solutions in
Python 3 of problems with one right output. Kattis compares words whatever the lines, the verifier line by line: a
solution that prints on one line what its answer has on three (guessingcircle) counts as wrong here.
"""

import ast
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nemo_cascade.rewards.code.verify import CodeVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
FOLDER = os.environ.get("NEMO_CASCADE_CODE_SETS")
MOST = int(os.environ.get("NEMO_CASCADE_CODE_SETS_MOST", "200"))
LEAST_RIGHT, MOST_MUTANTS = 0.97, 0.25
MOST_INPUT_BYTES, MUTANTS = 2 << 20, 60
LOCAL = threading.local()


def thinned(items, most=MOST):
    items = list(items)
    return [items[index * len(items) // most] for index in range(most)] if len(items) > most else items


def leetcode(folder):
    for path in sorted((folder / "leetcode").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["task_id"], row, row["completion"]


def stdin(folder):
    for path in sorted((folder / "stdin").glob("**/problem.yaml")):
        problem, settings = path.parent, path.read_text(encoding="utf-8")
        if re.search(r"^validation:\s*custom", settings, re.MULTILINE) or (problem / "output_validators").is_dir():
            continue  # another output may be right, too
        cases = [(given, given.with_suffix(".ans")) for given in sorted((problem / "data").glob("**/*.in"))]
        cases = [case for case in cases if all(file.is_file() for file in case)]
        cases = [case for case in cases if case[0].stat().st_size < MOST_INPUT_BYTES]
        tests = [{"stdin": i.read_text(errors="replace"), "expected": o.read_text(errors="replace")} for i, o in cases]
        for source in sorted((problem / "submissions" / "accepted").glob("*.py")):
            text = source.read_text(errors="replace")
            if tests and not re.search(r"^\s*print [^(=]|raw_input|xrange", text, re.MULTILINE):  # Python 2
                yield f"{problem.name}/{source.name}", {"tests": tests}, text


def exercises(folder):
    for path in sorted((folder / "pytest").glob("**/*_test.py")):
        solution, test = path.parent / ".meta" / "example.py", path.read_text(encoding="utf-8")
        if solution.is_file() and "test_utils" not in test and "mock" not in test:  # they need files beside them
            module = path.name.removesuffix("_test.py")
            yield module, {"test": test, "module": module}, solution.read_text(encoding="utf-8")


class Mutation(ast.NodeTransformer):
    """Turns the first comparison, sum or number that matters into another, from a place on."""

    def __init__(self, place):
        self.place, self.done = place, False

    def visit(self, node):
        self.generic_visit(node)
        if self.done or getattr(node, "lineno", 0) < self.place:
            return node
        if isinstance(node, ast.Return) and node.value is not None:
            node.value, self.done = ast.Constant(None), True
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and node.args:
            node.args[0], self.done = ast.Tuple([node.args[0], ast.Constant("?")], ast.Load()), True
        return node


def mutant(source):
    """Return the source with its last return, or its last print, spoilt; None where there is none."""
    tree = ast.parse(source)
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Return) and node.value is not None)
        or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and node.args)
    ]
    if not lines:
        return None
    mutation = Mutation(max(lines))
    spoilt = ast.unparse(ast.fix_missing_locations(mutation.visit(tree)))
    return spoilt if mutation.done else None


def judged(job):
    name, row, source = job
    if not hasattr(LOCAL, "verifier"):
        LOCAL.verifier = CodeVerifier(per_test_s=20.0, total_s=120.0, memory_mib=1024)
    try:
        verdict = LOCAL.verifier.verify(row, Response(f"````python\n{source}\n````"))
        return name, float(verdict), verdict.detail
    except VerifierError as error:
        return name, None, str(error)


@pytest.mark.skipif(FOLDER is None, reason="NEMO_CASCADE_CODE_SETS names no folder of code sets")
@pytest.mark.parametrize("read", [leetcode, stdin, exercises])
def test_reference_solutions_pass_and_mutants_fail(read):
    jobs = thinned(read(Path(FOLDER)))
    if not jobs:
        pytest.skip("this set isn't there")
    with ThreadPoolExecutor(2) as threads:
        right = list(threads.map(judged, jobs))
        spoilt = [(name, row, changed) for name, row, source in jobs if (changed := mutant(source)) is not None]
        wrong = list(threads.map(judged, thinned(spoilt, MUTANTS)))
    passed = sum(score == 1.0 for _, score, _ in right)
    survived = sum(score == 1.0 for _, score, _ in wrong)
    print(f"\n{read.__name__}: {passed} of {len(right)} reference solutions pass ({passed / len(right):.1%}), ", end="")
    print(f"{survived} of {len(wrong)} mutants do")
    for name, score, detail in right:
        if score != 1.0:
            print(f"  {name}: {score} {detail[:160]!r}")
    print("  surviving mutants:", ", ".join(name for name, score, _ in wrong if score == 1.0))
    assert passed >= LEAST_RIGHT * len(right)
    assert survived <= MOST_MUTANTS * len(wrong)
