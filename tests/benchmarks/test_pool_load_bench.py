"""What hangs and kills cost a verifier pool: the same 20,000 mixed samples without and with them, one run."""

import os
from pathlib import Path

import pytest

from tests.unit.rewards.pool_load import HANG_DEADLINE_S, KILL_SHARE, make_samples, run_load, with_hangs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

COUNT, SPARES, SLACK_MIB = 20_000, 16, 8
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


def test_20000_verdicts_with_hangs_and_kills_take_at_most_1_3_times_as_long():
    plain = make_samples(COUNT)
    calm = run_load(plain)
    print(
        f"\n{COUNT} mixed verdicts on 2 workers; 2 % hang for {HANG_DEADLINE_S} s, 1 % kills, {SPARES} spares at most"
    )
    show("without faults", calm, plain)
    check(calm, plain)
    for hang in ("blocked", "spinning"):
        samples = with_hangs(plain, hang)
        hangs = sum(due is None for _, _, _, due in samples)
        load = run_load(samples, kill_share=KILL_SHARE, spare_workers=SPARES, linger_share=LINGER_SHARE)
        show(f"hangs {hang}", load, samples)
        # What spins until its deadline takes CPU from the others: no pool gives that back.
        lost_s = hangs * HANG_DEADLINE_S / os.cpu_count() if hang == "spinning" else 0.0
        print(f"  {'':16s} x{load.seconds / calm.seconds:.2f} of the time without faults"
              + (f"; allowing {lost_s:.0f} s for CPU that spins away: x{load.seconds / (calm.seconds + lost_s):.2f}"
                 if lost_s else ""))  # fmt: skip
        check(load, samples)
        assert load.kills >= 0.9 * KILL_SHARE * COUNT
        assert load.seconds <= 1.3 * (calm.seconds + lost_s)
