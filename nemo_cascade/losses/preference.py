"""Losses of reward models on pairs of responses. P: pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_cascade.losses.output import LossOutput, sum_and_count


def bradley_terry_loss(chosen_P: Tensor, rejected_P: Tensor) -> LossOutput:
    """Sum -log P(chosen > rejected) over pairs (arXiv 2512.13607, section 4.2.2).

        P(chosen > rejected) = sigmoid(r_chosen - r_rejected)

    Args:
        chosen_P: [P] score of each preferred response, with gradient.
        rejected_P: [P] score of the other one.

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
    return LossOutput(-F.logsigmoid(margin_P).sum(), metrics)
