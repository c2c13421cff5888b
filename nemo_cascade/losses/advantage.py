"""Group-relative advantages (GRPO), in float64 on the driver. P prompts, G rollouts each."""

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.stages.policy_loss import AdvantageConfig
from nemo_cascade.errors import RewardError

_MIN_VALID = 2


def group_advantages(
    rewards_PG: NDArray[np.floating], valid_PG: NDArray[np.bool_], config: AdvantageConfig
) -> NDArray[np.float64]:
    """Return the advantage of each rollout, float64 [P, G].

    With n valid rollouts in a group and r their rewards:

        mean           A_i = r_i - mean(r),            s   = standard deviation of r
        leave_one_out  A_i = r_i - mean(r without i),  s_i = standard deviation of r without i

    both with Bessel's factor, as verl (which Cascade 1 was trained with), NeMo-RL and TRL have it; the papers are
    silent. With `normalize_by_std` they are A_i / (s_i + epsilon). A group whose max - min is at most epsilon gets
    exactly 0: the noise of a mean must not be blown up by a tiny s. A leave-one-out s_i that is at most epsilon (all
    the others are equal) or undefined (n = 2) leaves A_i undivided, as NeMo-RL does for 0.

    Args:
        rewards_PG: scores; what stands where `valid_PG` is false is ignored.
        valid_PG: false where the verifier failed: such a rollout is in no baseline and has advantage 0. A group with
            fewer than two valid rollouts is 0 throughout.
        config: the switches.

    Raises:
        RewardError: a valid reward isn't finite.
    """
    rewards, valid = _checked(rewards_PG, valid_PG)
    usable_P = _usable(rewards, valid, config.std_epsilon)
    advantage = np.zeros_like(rewards)
    for p in np.flatnonzero(usable_P):
        advantage[p, valid[p]] = _one_group(rewards[p, valid[p]], config)
    return advantage


def count_unpaired_groups(valid_PG: NDArray[np.bool_]) -> int:
    """Count the groups with fewer than two valid rollouts: there is nothing to compare, so they train nothing."""
    return int((valid_PG.sum(axis=1) < _MIN_VALID).sum())


def _one_group(reward_n: NDArray[np.float64], config: AdvantageConfig) -> NDArray[np.float64]:
    n = reward_n.size
    if config.baseline == "mean":
        centred_n = reward_n - reward_n.mean()
        return np.asarray(centred_n / (reward_n.std(ddof=1) + config.std_epsilon if config.normalize_by_std else 1.0))
    # Row i holds the n - 1 others; n is the group size (8, 16), so n * n is nothing.
    others = np.broadcast_to(reward_n, (n, n))[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    centred_n = reward_n - others.mean(axis=1)
    if not config.normalize_by_std or n == _MIN_VALID:
        return np.asarray(centred_n)
    std_n = others.std(axis=1, ddof=1)
    divisor_n = np.where(std_n > config.std_epsilon, std_n + config.std_epsilon, 1.0)
    return np.asarray(centred_n / divisor_n)


def _checked(
    rewards_PG: NDArray[np.floating], valid_PG: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    assert rewards_PG.ndim == 2, "rewards are [P, G]"
    assert rewards_PG.shape == valid_PG.shape, "rewards and valid have one shape"
    valid = valid_PG.astype(bool)
    rewards = np.where(valid, rewards_PG, 0.0).astype(np.float64)
    if not np.isfinite(rewards).all():
        p, g = np.argwhere(~np.isfinite(rewards))[0]
        raise RewardError(
            f"the reward of prompt {p}, rollout {g} isn't finite",
            value=rewards[p, g],
            mend="a verifier must return a finite score or raise",
        )
    return rewards, valid


def _usable(rewards: NDArray[np.float64], valid: NDArray[np.bool_], epsilon: float) -> NDArray[np.bool_]:
    high_P = np.where(valid, rewards, -np.inf).max(axis=1)
    low_P = np.where(valid, rewards, np.inf).min(axis=1)
    enough_P = valid.sum(axis=1) >= _MIN_VALID
    spread_P = np.where(enough_P, high_P, 0) - np.where(enough_P, low_P, 0)
    return np.asarray(spread_P > epsilon)
