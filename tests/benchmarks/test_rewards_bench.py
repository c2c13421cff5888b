"""Speed of verdicts: the pool against the bare library with its own alarm, and the tail at full load."""

import multiprocessing
import re
import time
from pathlib import Path

import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response

PAIRS = Path(__file__).parents[1] / "golden" / "math_pairs.txt"
ROUNDS, WORKERS = 8, 2
# Towers of powers and giant factorials, on each of which the bare library burns its alarm of 5 s.
COSTLY = re.compile(r"9\^|\*\*|!\)|[0!]!|9!|99999|\\int|\\sum")

pytestmark = pytest.mark.bench


def pairs():
    lines = [line for line in PAIRS.read_text(encoding="utf-8").splitlines() if line[:2] in ("= ", "! ")]
    return [tuple(part.strip() for part in (line + " ").split(" | "))[1:] for line in lines]


def bare_share(rows):
    """One process of the bare library with its own alarm; returns when its first and last verdict began and ended."""
    from math_verify import parse, verify

    def one(gold, answer):
        return verify(parse(f"${gold}$"), parse(f"\\boxed{{{answer}}}"))

    one("1", "1")
    start = time.monotonic()
    for gold, answer in rows:
        one(gold, answer)
    return start, time.monotonic()


def bare_rate(rows):
    """Verdicts per second of as many processes of the bare library as the pool has workers, each with its share."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as processes:
        spans = processes.map(bare_share, [rows[part::WORKERS] for part in range(WORKERS)], chunksize=1)
    return len(rows) / (max(end for _, end in spans) - min(start for start, _ in spans))


def pool_rate(pool, rows):
    """Verdicts per second, and the seconds that each took, sorted."""
    start = time.perf_counter()
    for gold, answer in rows:
        pool.submit(None, "math", {"answer": gold}, Response(f"\\boxed{{{answer}}}"))
    took = sorted(verdict.seconds for _, verdict in pool.drain())
    return len(rows) / (time.perf_counter() - start), took


def test_math_verdicts_per_second_and_tail(capsys):
    rows = [row for row in pairs() if row[1] and not COSTLY.search(row[1])]
    with VerifierPool(RewardConfig(workers=WORKERS)) as pool:
        pool.self_test(["math"])
        once, _ = pool_rate(pool, rows)
        mixed, took = pool_rate(pool, rows * ROUNDS)
        tails = {share: took[len(took) * share // 100] * 1000 for share in (50, 95, 99)}
        plain, _ = pool_rate(pool, [("7", "7")] * 20_000)
    bare_once, bare = bare_rate(rows), bare_rate(rows * ROUNDS)
    with capsys.disabled():
        shown = "  ".join(f"p{share} {ms:.0f} ms" for share, ms in tails.items())
        print(f"\nmath verdicts/s, golden pairs, {WORKERS} busy processes each; the bare library with its 5 s alarm")
        print(f"  each pair once       pool {once:6.0f}   bare math-verify {bare_once:6.0f}   x{once / bare_once:.1f}")
        print(f"  each {ROUNDS} times         pool {mixed:6.0f}   bare math-verify {bare:6.0f}   x{mixed / bare:.1f}")
        print(f"  plain numbers        pool {plain:6.0f}")
        print(f"  the pool's tail at full load: {shown}")
    assert once > bare_once
    assert mixed > bare
    assert plain > 2000
    assert tails[99] < 2000
