"""Reference solutions of released code sets pass, and mutants of them fail; the sets lie in a folder of the user's.

NEMO_CASCADE_CODE_SETS names it; fetch_code_sets.sh fills it. In it, as far as they are there:
    leetcode/*.jsonl        rows as LeetCodeDataset ships them (github.com/newfacade/LeetCodeDataset, data/*.jsonl.gz)
    stdin/**/problem.yaml   problem packages (problem_packages.py says which problems and which solutions count)
    pytest/**/*_test.py     exercises with .meta/example.py beside them (github.com/exercism/python)
NEMO_CASCADE_CODE_SETS_MOST limits the solutions of each set (default 200), NEMO_CASCADE_CODE_SETS_BYTES the inputs of
stdin (default 2 MiB), NEMO_CASCADE_CODE_SETS_MUTANTS says how many mutants of each are tried (default 1); stdin's only
where a problem has ten tests, as many packages ship but the examples.

A mutant that passes is printed with its change: it may be equivalent (a bound that is never met, a larger limit of
recursion), or the set's tests can't tell it.

By pytest so far: MOST=12 of leetcode (12 pass, 11 of 12 mutants fail) and of pytest (12 pass, 10 of 11 fail);
the two mutants that pass are equivalent (a connective where both sides end together, `<=` of labels that differ).

Last measured by hand, on a machine that ran much else:
    leetcode    100 of 100
    stdin       inputs up to 6,000 bytes, 4 to 8 of each problem, an even choice from small to large: of 259 solutions
                of 158 problems none fails, 255 pass and 4 got no CPU to end in. By lines instead of the
                packages' own rules 10 of the 255 would fail. Of 182 mutants 165 fail, 6 got no CPU and 11 pass: 8 are
                equivalent, 3 are told apart by none of those tests (1 by a larger one).
    pytest      134 of 137. Two solutions make a plain number out of an object of theirs (abs, a power): a value that a
                tolerance is applied to mustn't come from the solution's operators (sandbox/inside/remote.py). One test
                wants a recursion as deep as Python's limit to fail; programs get the limit that contests have.
"""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nemo_cascade.rewards.code.verify import CodeVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError
from tests.benchmarks.mutants import mutants
from tests.benchmarks.problem_packages import problems

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
FOLDER = os.environ.get("NEMO_CASCADE_CODE_SETS")
MOST = int(os.environ.get("NEMO_CASCADE_CODE_SETS_MOST", "200"))
LEAST_RIGHT, MOST_MUTANTS = 0.97, 0.25
MOST_BYTES = int(os.environ.get("NEMO_CASCADE_CODE_SETS_BYTES", str(2 << 20)))
ENOUGH_TESTS = 10
MUTANTS = int(os.environ.get("NEMO_CASCADE_CODE_SETS_MUTANTS", "1"))
LOCAL = threading.local()
# The packages' judges run PyPy, whose loops are some five times as fast.
LIMITS = {"stdin": {"per_test_s": 60.0, "total_s": 900.0, "memory_mib": 1024}}


def thinned(items, most=MOST):
    items = list(items)
    return [items[index * len(items) // most] for index in range(most)] if len(items) > most else items


def leetcode(folder):
    for path in sorted((folder / "leetcode").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["task_id"], lambda row=row: row, row["completion"], True


def stdin(folder):
    for problem in problems(folder / "stdin", MOST_BYTES):
        enough = len(problem.cases()) >= ENOUGH_TESTS
        for name, text in problem.solutions():  # rows are read when they're needed: all would fill the memory
            yield f"{problem.folder.name}/{name}", problem.row, text, enough


def exercises(folder):
    for path in sorted((folder / "pytest").glob("**/*_test.py")):
        solution, test = path.parent / ".meta" / "example.py", path.read_text(encoding="utf-8")
        if solution.is_file() and "test_utils" not in test and "mock" not in test:  # they need files beside them
            row = {"test": test, "module": path.name.removesuffix("_test.py")}
            yield row["module"], lambda row=row: row, solution.read_text(encoding="utf-8"), True


def judged(job):
    name, row_of, source, limits = job
    if getattr(LOCAL, "limits", None) != limits:
        LOCAL.limits, LOCAL.verifier = limits, CodeVerifier(**limits)
    try:
        verdict = LOCAL.verifier.verify(row_of(), Response(f"````python\n{source}\n````"))
        return name, float(verdict), verdict.detail
    except VerifierError as error:
        return name, None, str(error)


def scores(jobs, due, limits):
    """Judge, two at a time, and show at once what gets another verdict than is due: a run may be cut off."""
    found = []
    with ThreadPoolExecutor(2) as threads:
        for number, (name, score, detail) in enumerate(threads.map(judged, ((*job, limits) for job in jobs)), 1):
            found.append(score)
            if score != due:
                print(f"  {number} of {len(jobs)}, due {due:g}: {name}: {score} {detail[:160]!r}", flush=True)
    return found


@pytest.mark.skipif(FOLDER is None, reason="NEMO_CASCADE_CODE_SETS names no folder of code sets")
@pytest.mark.parametrize("read", [leetcode, stdin, exercises])
def test_reference_solutions_pass_and_mutants_fail(read):
    jobs = thinned(read(Path(FOLDER)))
    if not jobs:
        pytest.skip("this set isn't there")
    told = [(name, row, code) for name, row, code, enough in jobs if enough]
    spoilt = [(f"{name}: {what}", row, text) for name, row, code in told for what, text in mutants(code, MUTANTS, name)]
    print(f"\n{read.__name__}:")
    limits = LIMITS.get(read.__name__, {})
    right = scores([job[:3] for job in jobs], 1.0, limits)
    print(f"  {right.count(1.0)} of {len(right)} reference solutions pass", flush=True)
    wrong = scores(spoilt, 0.0, limits)
    print(f"  {wrong.count(0.0)} of {len(wrong)} mutants fail, {wrong.count(1.0)} pass", flush=True)
    assert right.count(1.0) >= LEAST_RIGHT * len(right)
    assert wrong.count(1.0) <= MOST_MUTANTS * len(wrong)
