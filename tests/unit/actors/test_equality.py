import numpy as np
import pytest

from nemo_cascade.actors.agreement import Distance, Limits, compare, limits
from nemo_cascade.config.rollout import WeightSyncConfig
from nemo_cascade.errors import WeightSyncError

A = [np.array([-1.0, -2.0], np.float32), np.array([-3.0], np.float32)]
EXACT = Limits(mean=None, quantile=None, max=1e-3)
FLOOR = Distance(1e-5, 1e-5, 2e-5)


def test_equal_log_probs_give_their_distance():
    found = compare("rollout-0", A, [A[0], A[1] + np.float32(3e-4)], EXACT, FLOOR)
    assert found.max == pytest.approx(3e-4, rel=1e-2)
    assert found.mean == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("wrong", [-3.5, np.nan, -np.inf])
@pytest.mark.parametrize("allowed", [EXACT, Limits(mean=0.1, quantile=0.4, max=None)])
def test_a_wrong_or_broken_value_stops_with_both_sides_and_what_rounding_gives(wrong, allowed):
    with pytest.raises(WeightSyncError, match="rollout-0") as caught:
        compare("rollout-0", A, [A[0], np.array([wrong], np.float32)], allowed, FLOOR)
    assert "trainer -3.0000" in str(caught.value)
    assert "mean 1e-05" in str(caught.value)


def test_rounded_sides_may_be_far_apart_at_one_place_but_not_on_the_whole():
    allowed = limits(WeightSyncConfig(), FLOOR, "bf16", "bf16")
    trainer = np.full(252, -12.0, np.float32)
    outlier, shifted, spread = trainer.copy(), trainer - np.float32(0.15), trainer.copy()
    outlier[0] += 3.7
    spread[:4] += 0.6
    assert compare("rollout-0", [trainer], [outlier], allowed, FLOOR).max == pytest.approx(3.7)
    for wrong in (shifted, spread):
        with pytest.raises(WeightSyncError):
            compare("rollout-0", [trainer], [wrong], allowed, FLOOR)


def test_limits_leave_room_for_rounding_but_not_without_end():
    def mean(floor, **own):
        return limits(WeightSyncConfig(**own), Distance(floor, 4 * floor, 50 * floor), "bf16", "fp32").mean

    assert mean(0.01) == 0.1
    assert mean(0.06) == pytest.approx(0.18)
    assert mean(5.0) == mean(np.inf) == pytest.approx(0.4)
    assert mean(0.06, mean_logprob_difference=0.05) == 0.05
    assert limits(WeightSyncConfig(), Distance(1.0, 1.0, 1.0), "fp32", "fp32") == EXACT
