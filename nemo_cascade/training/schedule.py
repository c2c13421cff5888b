"""The learning rate as a pure function of the step: nothing to save, nothing to drift on resume."""

from __future__ import annotations

import math

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.errors import TrainingError


def check_warm_up(config: OptimizerConfig, total_steps: int, stage: str) -> None:
    """Refuse a schedule that is over before its warm-up is, as where a stage's epochs turn out to be short.

    Raises:
        TrainingError: so it is.
    """
    horizon = config.lr_decay_steps or total_steps
    if config.lr_warmup_steps and config.lr_warmup_steps >= horizon:
        raise TrainingError(
            "warm-up takes the whole schedule",
            value=f"stages.{stage}.optimizer.lr_warmup_steps={config.lr_warmup_steps}",
            limit=f"less than {horizon} steps",
            mend="lower it, or train on more data",
        )


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of an optimizer step.

    Linear warm-up reaches `lr` on step `lr_warmup_steps - 1`; the decay runs over the rest of the horizon and would
    reach `min_lr` on the step behind it, so that no step inside the horizon is wasted on a rate of 0.

    Args:
        config: peak, floor, shape, warm-up and horizon.
        step: counted from 0.
        total_steps: the stage's number of steps; the horizon where `lr_decay_steps` is null.
    """
    if step < config.lr_warmup_steps:
        return config.lr * (step + 1) / config.lr_warmup_steps
    if config.lr_decay_style == "constant":
        return config.lr
    horizon = config.lr_decay_steps or total_steps
    if step >= horizon:
        return config.min_lr
    fraction = (step - config.lr_warmup_steps) / (horizon - config.lr_warmup_steps)
    linear = config.lr_decay_style == "linear"
    remaining = 1.0 - fraction if linear else 0.5 * (1.0 + math.cos(math.pi * fraction))
    return config.min_lr + (config.lr - config.min_lr) * remaining
