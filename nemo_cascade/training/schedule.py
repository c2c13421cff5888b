"""The learning rate as a pure function of the step: nothing to save, nothing to drift on resume."""

import math
from collections.abc import Callable, Mapping

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.errors import TrainingError


def check_warm_up(config: OptimizerConfig, total_steps: int, stage: str) -> None:
    """Refuse a schedule that is over before its warm-up is, as where a stage's epochs turn out to be short.

    Raises:
        TrainingError: so it is.
    """
    horizon = config.lr_decay_steps or total_steps
    warm_up = warm_up_steps(config, total_steps)
    if warm_up and warm_up >= horizon:
        raise TrainingError(
            "warm-up takes the whole schedule",
            value=f"stages.{stage}.optimizer: {warm_up} steps of warm-up",
            limit=f"less than {horizon} steps",
            mend=f"stages.{stage}.optimizer.lr_warmup_steps={horizon // 10}, or train on more data",
        )
    if config.lr_decay_style == "wsd" and warm_up + _wsd_steps(config, horizon) > horizon:
        raise TrainingError(
            "warm-up and decay take more than the schedule",
            value=f"stages.{stage}.optimizer: {warm_up} + {_wsd_steps(config, horizon)} steps",
            limit=f"{horizon} steps",
            mend=f"stages.{stage}.optimizer.lr_wsd_decay_steps={max(1, horizon - warm_up)}",
        )


def warm_up_steps(config: OptimizerConfig, total_steps: int) -> int:
    """Return the steps of the warm-up."""
    if config.lr_warmup_fraction is None:
        return config.lr_warmup_steps
    return round(config.lr_warmup_fraction * (config.lr_decay_steps or total_steps))


def _wsd_steps(config: OptimizerConfig, horizon: int) -> int:
    return config.lr_wsd_decay_steps or max(1, horizon // 10)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of an optimizer step.

    Linear warm-up reaches `lr` on its last step; the decay runs over the rest of the horizon and would
    reach `min_lr` on the step behind it, so that no step inside the horizon is wasted on a rate of 0.

    Args:
        config: peak, floor, shape, warm-up and horizon.
        step: counted from 0.
        total_steps: the stage's number of steps; the horizon where `lr_decay_steps` is null.
    """
    warm_up = warm_up_steps(config, total_steps)
    if step < warm_up:
        return config.lr_warmup_init + (config.lr - config.lr_warmup_init) * (step + 1) / warm_up
    if config.lr_decay_style == "constant":
        return config.lr
    horizon = config.lr_decay_steps or total_steps
    if step >= horizon:
        return config.min_lr
    begins, style = warm_up, str(config.lr_decay_style)
    if style == "wsd":
        begins, style = max(warm_up, horizon - _wsd_steps(config, horizon)), config.lr_wsd_decay_style
        if step < begins:
            return config.lr
    remaining = _REMAINING[style]((step - begins) / (horizon - begins))
    return config.min_lr + (config.lr - config.min_lr) * remaining


# Share of the decay that is done -> share of the peak that is left (Megatron-Core's OptimizerParamScheduler).
_REMAINING: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "minus_sqrt": lambda done: 1.0 - math.sqrt(done),
    "exponential": lambda done: 2.0 * 0.5**done - 1.0,
}
