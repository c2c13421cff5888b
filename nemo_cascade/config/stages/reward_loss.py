"""What a reward model is trained by."""

from dataclasses import field
from typing import Literal

from nemo_cascade.config.base import block


@block
class RewardLossConfig:
    """A reward model's loss (losses/reward_model.py has the formulas)."""

    form: Literal["plain", "margin", "scaled", "regression"] = "plain"
    """On pairs: Bradley-Terry, plain, or by how strongly the chosen reply is preferred (the rows' `margin`), which is
    subtracted inside the sigmoid or multiplies the loss. regression: squared errors of rated attributes."""
    attributes: dict[str, float] = field(default_factory=dict)
    """regression: what replies are rated by, in the order of the head's outputs -> weight in the score; 0: not counted.
    A row's missing ratings aren't trained."""
