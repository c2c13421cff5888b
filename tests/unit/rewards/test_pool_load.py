"""The pool under load, with verifiers that hang and workers that somebody kills. Its speed: tests/benchmarks."""

import pytest

from tests.unit.rewards.pool_load import KILL_SHARE, make_samples, run_load, with_hangs


@pytest.mark.parametrize("hang", ["blocked", "spinning"])
def test_no_verdict_is_lost_doubled_or_wrong_under_hangs_and_kills(hang):
    samples = with_hangs(make_samples(600), hang)
    load = run_load(samples, kill_share=KILL_SHARE)
    assert None not in load.outcomes
    assert not load.answered
    assert load.wrong(samples) == []
    # It takes three kills to lose a sample: one in a million at this rate.
    assert load.unlucky(samples) == 0
    assert load.kills >= 4
    assert sum(error == "timeout" for _, error in load.outcomes) >= 5
