"""What hangs and kills cost a verifier pool: the same 20,000 mixed samples without and with them, one run."""

import os
from pathlib import Path

import pytest

from tests.unit.rewards.pool_load import HANG_DEADLINE_S, KILL_SHARE, make_samples, run_load, with_hangs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

COUNT, SPARES, SLACK_MIB = 20_000, 16, 8
MOST_TIMES = 1.3
LINGER_SHARE = 0.02  # 10 ms of the deadline of what hangs, 200 ms of the others'


@pytest.fixture(autouse=True)
def _probe_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "unit" / "rewards"))


def show(name, load, samples):
    fifths = " ".join(f"{mib:.0f}" for mib in load.memory_mib)
    stats = {key: load.stats.get(key, 0) for key in ("restarts/timeout", "restarts/crash")}
    print(f"  {name:16s} {load.seconds:6.1f} s  {COUNT / load.seconds:5.0f} verdicts/s  RSS MiB by fifth: {fifths}")
    print(f"  {'':16s} kills {load.kills}  timeouts {stats['restarts/timeout']:.0f}  crashes "
          f"{stats['restarts/crash']:.0f}  unlucky {load.unlucky(samples)}")  # fmt: skip


def check(load, samples):
    assert None not in load.outcomes
    assert not load.answered
    assert load.wrong(samples) == []
    assert load.unlucky(samples) == 0
    assert load.memory_mib[-1] <= 1.1 * load.memory_mib[0] + SLACK_MIB


def test_20000_verdicts_with_hangs_and_kills_take_little_longer_than_without():
    plain = make_samples(COUNT)
    before = run_load(plain)
    print(
        f"\n{COUNT} mixed verdicts on 2 workers; 2 % hang for {HANG_DEADLINE_S} s, 1 % kills, {SPARES} spares at most"
    )
    show("without faults", before, plain)
    check(before, plain)
    loads = {}
    for hang in ("blocked", "spinning"):
        samples = with_hangs(plain, hang)
        loads[hang] = run_load(samples, kill_share=KILL_SHARE, spare_workers=SPARES, linger_share=LINGER_SHARE)
        show(f"hangs {hang}", loads[hang], samples)
        check(loads[hang], samples)
        assert loads[hang].kills >= 0.9 * KILL_SHARE * COUNT
    after = run_load(plain)
    show("without, again", after, plain)
    calm_s = min(before.seconds, after.seconds)  # the box may be shared: a disturbance only ever slows down
    for hang, load in loads.items():
        print(f"  hangs {hang}: x{load.seconds / calm_s:.2f} of the time without faults")
    assert loads["blocked"].seconds <= MOST_TIMES * calm_s
    # What spins until its deadline takes CPU from the others: no pool gives that back.
    spun_s = HANG_DEADLINE_S * sum(due is None for _, _, _, due in with_hangs(plain, "spinning"))
    assert loads["spinning"].seconds <= MOST_TIMES * calm_s + spun_s / os.cpu_count()
