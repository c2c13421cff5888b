"""What hangs and kills cost a verifier pool: the same 20,000 mixed samples without and with them, one run."""

import os
from pathlib import Path

import pytest

from tests.unit.rewards.pool_load import HANG_DEADLINE_S, KILL_SHARE, make_samples, run_load, with_hangs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

COUNT, SLACK_MIB = 20_000, 8
CORES = os.cpu_count() or 1
WORKERS = CORES + 1
MOST_TIMES = 1.3
ORDER = ("blocked", "spinning", "blocked", "blocked")


@pytest.fixture(autouse=True)
def _probe_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "unit" / "rewards"))


def show(name, load, samples):
    fifths = " ".join(f"{mib:.0f}" for mib in load.memory_mib)
    timeouts = sum(error == "timeout" for _, error in load.outcomes)
    print(f"  {name:16s} {load.seconds:6.1f} s  {COUNT / load.seconds:5.0f} verdicts/s  RSS MiB by fifth: {fifths}")
    print(f"  {'':16s} kills {load.kills}  timeouts {timeouts}  unlucky {load.unlucky(samples)}")


def check(load, samples):
    assert None not in load.outcomes
    assert not load.answered
    assert load.wrong(samples) == []
    assert load.unlucky(samples) == 0
    # Of the growth alone: this process holds what earlier benchmarks left, too.
    assert load.memory_mib[-1] <= load.memory_mib[0] + SLACK_MIB


def run_calm(samples):
    load = run_load(samples, workers=WORKERS)
    show("without faults", load, samples)
    check(load, samples)
    return load.seconds


def run_faults(samples, hang):
    load = run_load(samples, workers=WORKERS, kill_share=KILL_SHARE)
    show(f"hangs {hang}", load, samples)
    check(load, samples)
    assert load.kills >= 0.9 * KILL_SHARE * COUNT
    return load.seconds


def test_20000_verdicts_with_hangs_and_kills_take_little_longer_than_without():
    """Loads with and without faults take turns, and each is compared with its neighbours: a shared box drifts."""
    plain = make_samples(COUNT)
    faulty = {hang: with_hangs(plain, hang) for hang in ("blocked", "spinning")}
    print(f"\n{COUNT} mixed verdicts on {WORKERS} workers, {CORES} cores; 2 % hang for {HANG_DEADLINE_S} s, 1 % kills")
    took, calm = {hang: [] for hang in faulty}, {hang: [] for hang in faulty}
    before_s = run_calm(plain)
    for hang in ORDER:
        took[hang].append(run_faults(faulty[hang], hang))
        after_s = run_calm(plain)
        calm[hang].append((before_s + after_s) / 2)
        ratio = took[hang][-1] / calm[hang][-1]
        print(f"  hangs {hang}: x{ratio:.2f} of the {calm[hang][-1]:.1f} s without faults just before and after")
        before_s = after_s
    # A hang holds its worker until its deadline; what spins takes a core, too.
    for hang, holders in (("blocked", WORKERS), ("spinning", CORES)):
        hung_s = HANG_DEADLINE_S * sum(due is None for _, _, _, due in faulty[hang]) / holders
        assert sum(took[hang]) <= MOST_TIMES * sum(calm[hang]) + len(took[hang]) * hung_s
