"""Losses of reward models: on pairs of responses, or on rated attributes of single ones.

    plain       -log sigmoid(r_chosen - r_rejected)                  arXiv 2512.13607, section 4.2.2
    margin      -log sigmoid(r_chosen - r_rejected - m)              arXiv 2307.09288, equation 2
    scaled      -m log sigmoid(r_chosen - r_rejected)                arXiv 2410.01257, section 3
    regression  sum over rated attributes of (p - y)^2               arXiv 2406.11704, section 3.1

m is how strongly the chosen response is preferred. Shapes: P pairs, D documents, K attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_cascade.losses.objective import Head, LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count
from nemo_cascade.losses.units import RATING


@dataclass(frozen=True, slots=True)
class _RewardObjective(Objective):
    """What reward models share: their head, drawn anew where they start from a language model."""

    def head(self) -> Head:
        """Return a reward model's."""
        return "score"


@dataclass(frozen=True, slots=True)
class BradleyTerry(_RewardObjective):
    """A reward model's loss on pairs.

    Attributes:
        form: whether, and how, it counts how strongly the chosen response is preferred.
    """

    form: Literal["plain", "margin", "scaled"] = "plain"

    def spec(self) -> LossSpec:
        """Return what it reads: strengths, where its form has any."""
        extras = frozenset() if self.form == "plain" else frozenset(["strength"])
        return LossSpec("pair", extras, whole_documents=True)

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch; documents come in pairs, the preferred one first."""
        chosen_P, rejected_P = scored.scores().view(-1, 2).unbind(1)
        strength_P = None if self.form == "plain" else scored.at_marks("strength").view(-1, 2)[:, 0]
        return bradley_terry_loss(chosen_P, rejected_P, strength_P, self.form)


@dataclass(frozen=True, slots=True)
class Regression(_RewardObjective):
    """A reward model's loss on rated attributes.

    Attributes:
        weights: attribute, in the order of the head's outputs, and its weight in the score.
    """

    weights: tuple[tuple[str, float], ...]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The outputs' names."""
        return tuple(name for name, _ in self.weights)

    def score_outputs(self) -> Mapping[str, float]:
        """Return its attributes."""
        return dict(self.weights)

    def spec(self) -> LossSpec:
        """Return what it reads: each attribute's ratings."""
        return LossSpec("rating", frozenset(RATING + name for name in self.attributes), whole_documents=True)

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch."""
        rated_DK = torch.stack([scored.at_marks(RATING + name) for name in self.attributes], 1)
        return regression_loss(scored.outputs(), rated_DK, self.attributes)


def bradley_terry_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    strength_P: Tensor | None = None,
    form: Literal["plain", "margin", "scaled"] = "plain",
) -> LossOutput:
    """Sum the loss over pairs; the caller divides by the global batch's pairs.

    Args:
        chosen_P: [P] score of each preferred response, with gradient.
        rejected_P: [P] score of the other one.
        strength_P: [P], m; read by margin and scaled.
        form: which of them.

    Returns:
        The summed loss; metrics per pair: `accuracy` (a tie is half right), `margin`, `score_chosen`,
        `score_rejected`.
    """
    margin_P = chosen_P.float() - rejected_P.float()
    right_P = (margin_P > 0).float() + 0.5 * (margin_P == 0).float()
    every_P = torch.ones_like(margin_P)
    metrics = {
        "accuracy": sum_and_count(right_P, every_P),
        "margin": sum_and_count(margin_P, every_P),
        "score_chosen": sum_and_count(chosen_P, every_P),
        "score_rejected": sum_and_count(rejected_P, every_P),
    }
    if form == "plain":
        return LossOutput(-F.logsigmoid(margin_P).sum(), metrics)
    assert strength_P is not None, "margin and scaled read strengths"
    strength_P = strength_P.to(margin_P)
    if form == "margin":
        return LossOutput(-F.logsigmoid(margin_P - strength_P).sum(), metrics)
    return LossOutput(-(strength_P * F.logsigmoid(margin_P)).sum(), metrics)


def regression_loss(predicted_DK: Tensor, rated_DK: Tensor, names: Sequence[str]) -> LossOutput:
    """Sum squared errors over the ratings that there are; the caller divides by the global batch's ratings.

    Args:
        predicted_DK: [D, K], with gradient.
        rated_DK: [D, K]; NaN: not rated.
        names: [K], for the metrics.

    Returns:
        The summed loss; metrics per rating: `error` (squared), and each attribute's `error_<name>`.
    """
    is_rated_DK = ~torch.isnan(rated_DK)
    predicted_DK = predicted_DK.to(torch.promote_types(predicted_DK.dtype, torch.float32))
    # where before the square: neither value nor gradient of what isn't rated may come through.
    target_DK = torch.where(is_rated_DK, rated_DK.to(predicted_DK), predicted_DK.detach())
    squared_DK = torch.where(is_rated_DK, predicted_DK - target_DK, torch.zeros_like(predicted_DK)) ** 2
    metrics = {"error": sum_and_count(squared_DK, is_rated_DK)}
    for k, name in enumerate(names):
        metrics[f"error_{name}"] = sum_and_count(squared_DK[:, k], is_rated_DK[:, k])
    return LossOutput(squared_DK.sum(), metrics)
