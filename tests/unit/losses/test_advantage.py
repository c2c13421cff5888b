"""Group-relative advantages against the papers' formulas, and what must not carry a gradient."""

import math
import statistics

import numpy as np
import pytest

from nemo_cascade.config.stages.policy_loss import AdvantageConfig
from nemo_cascade.errors import RewardError
from nemo_cascade.losses.advantage import count_unpaired_groups, group_advantages


def formula(rewards, config):
    """Return one full group's advantages, from the definitions, one rollout at a time."""
    advantages = []
    for i, reward in enumerate(rewards):
        pool = list(rewards) if config.baseline == "mean" else [x for j, x in enumerate(rewards) if j != i]
        variance = sum(x * x for x in pool) / len(pool) - (sum(pool) / len(pool)) ** 2
        variance *= len(pool) / (len(pool) - 1)
        std = math.sqrt(max(variance, 0.0))
        centred = reward - sum(pool) / len(pool)
        divide = config.normalize_by_std and std > config.std_epsilon
        advantages.append(centred / (std + config.std_epsilon) if divide else centred)
    return advantages


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_full_groups_equal_the_formula(baseline, normalize, binary):
    rng = np.random.default_rng(3)
    rewards = rng.random((20, 8))
    rewards = (rewards < 0.4).astype(float) if binary else rewards * 3 - 1
    config = AdvantageConfig(baseline=baseline, normalize_by_std=normalize)
    expected = np.array([formula(row, config) if np.ptp(row) > 0 else [0.0] * 8 for row in rewards])
    np.testing.assert_allclose(group_advantages(rewards, np.ones((20, 8), bool), config), expected, rtol=1e-8)


def test_the_mean_baseline_divides_by_the_deviation_with_bessels_factor():
    rewards = np.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0] + [0.0] * 6])
    got = group_advantages(rewards, np.ones((2, 8), bool), AdvantageConfig())
    # torch.std and statistics.stdev both have it by default, which is how the frameworks came to it.
    for row, values in zip(got, rewards, strict=True):
        np.testing.assert_allclose(row, (values - values.mean()) / (statistics.stdev(values) + 1e-6), rtol=1e-12)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_group_without_spread_is_exactly_zero_even_under_float_noise(baseline, normalize):
    rewards = np.array([[0.1 + 0.2, 0.3, 0.3, 0.1 * 3], [1.0] * 4, [0.0] * 4])
    config = AdvantageConfig(baseline=baseline, normalize_by_std=normalize)
    assert not group_advantages(rewards, np.ones((3, 4), bool), config).any()


def test_leave_one_out_never_divides_by_noise():
    # One rollout stands out; the others differ by rounding only. Divided by that, it would weigh a million times.
    rewards = np.array([[1.0, 0.3, 0.1 + 0.2, 0.1 * 3]])
    config = AdvantageConfig(baseline="leave_one_out")
    advantages = group_advantages(rewards, np.ones((1, 4), bool), config)
    assert advantages[0, 0] == pytest.approx(0.7)
    assert np.abs(advantages).max() < 2


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_failed_verdicts_count_for_nobody(baseline):
    config = AdvantageConfig(baseline=baseline)
    rewards = np.array([[1.0, 0.0, 0.5, math.nan, 1e9]])
    valid = np.array([[True, True, True, False, False]])
    got = group_advantages(rewards, valid, config)
    np.testing.assert_allclose(got[0, :3], formula([1.0, 0.0, 0.5], config), rtol=1e-8)
    assert got[0, 3] == got[0, 4] == 0


def test_two_valid_rollouts_have_no_leave_one_out_deviation_and_stay_undivided():
    got = group_advantages(np.array([[1.0, 0.0]]), np.ones((1, 2), bool), AdvantageConfig(baseline="leave_one_out"))
    assert got.tolist() == [[1.0, -1.0]]


def test_groups_with_fewer_than_two_valid_rollouts_train_nothing_and_are_counted():
    rewards = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    valid = np.array([[False] * 3, [True, False, False], [True, True, False], [True, False, True]])
    config = AdvantageConfig()
    assert group_advantages(rewards, valid, config).any(axis=1).tolist() == [False, False, False, True]
    assert count_unpaired_groups(valid) == 2


def test_a_reward_that_is_not_finite_is_refused_with_its_place():
    rewards = np.array([[0.0, 1.0], [0.0, math.inf]])
    with pytest.raises(RewardError, match=r"prompt 1, rollout 1"):
        group_advantages(rewards, np.ones((2, 2), bool), AdvantageConfig())
