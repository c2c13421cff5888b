"""Speed of verdicts: the pool against the bare library with its own alarm, and the tail at full load."""

import time
from pathlib import Path

import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.evaluation_cost import cost_problem
from nemo_cascade.rewards.pool import VerifierPool
from nemo_cascade.rewards.response import Response

PAIRS = Path(__file__).parents[1] / "golden" / "math_pairs.txt"
ROUNDS = 8

pytestmark = pytest.mark.bench


def pairs():
    lines = [line for line in PAIRS.read_text(encoding="utf-8").splitlines() if line[:2] in ("= ", "! ")]
    return [tuple(part.strip() for part in (line + " ").split(" | "))[1:] for line in lines]


def bare_rate(rows):
    from math_verify import parse, verify

    def one(gold, answer):
        return verify(parse(f"${gold}$"), parse(f"\\boxed{{{answer}}}"))

    one("1", "1")
    start = time.perf_counter()
    for gold, answer in rows:
        one(gold, answer)
    return len(rows) / (time.perf_counter() - start)


def test_math_verdicts_per_second_and_tail(capsys):
    # Without the bombs: the pool rules them at once, the library burns its alarm of 5 s on each.
    rows = [row for row in pairs() if row[1] and cost_problem(row[1], row[0]) is None]
    with VerifierPool(RewardConfig(workers=2)) as pool:
        pool.self_test(["math"])
        start = time.perf_counter()
        for gold, answer in rows * ROUNDS:
            pool.submit(None, "math", {"answer": gold}, Response(f"\\boxed{{{answer}}}"))
        pool.drain()
        mixed = ROUNDS * len(rows) / (time.perf_counter() - start)
        tail = pool.stats()["seconds/p99"]
        start = time.perf_counter()
        for index in range(20_000):
            pool.submit(index, "math", {"answer": "7"}, Response(r"<think>a</think>\boxed{7}"))
        pool.drain()
        plain = 20_000 / (time.perf_counter() - start)
    bare = bare_rate(rows)
    with capsys.disabled():
        print(f"\nmath, pairs of the golden set: pool {mixed:.0f} verdicts/s on 2 workers, p99 {tail * 1000:.0f} ms")
        print(f"math, bare math-verify with its 5 s alarm, one process: {bare:.0f} verdicts/s")
        print(f"math, plain numbers: pool {plain:.0f} verdicts/s")
    assert mixed > bare
    assert plain > 2000
    assert tail < 2.0
