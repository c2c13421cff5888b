"""Cross entropy of supervised fine-tuning."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count


@dataclass(frozen=True, slots=True)
class SftLoss(Objective):
    """Cross entropy of the trained labels."""

    def spec(self) -> LossSpec:
        """Return what it reads: labels alone."""
        return LossSpec("token")

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch."""
        return cross_entropy_loss(scored.logprobs()[0], scored.loss_mask)


def cross_entropy_loss(logprob_T: Tensor, loss_mask_T: Tensor) -> LossOutput:
    """Sum -log p over the trained labels.

    Args:
        logprob_T: [T] log-probability of each label, with gradient.
        loss_mask_T: [T], 1 where the label is trained.

    Returns:
        The summed loss; metric `cross_entropy` (nats per trained token).
    """
    # where, not multiplication: an untrained label may have log-probability -inf, and 0 * inf is NaN.
    nll_T = -torch.where(loss_mask_T > 0, logprob_T, torch.zeros_like(logprob_T))
    return LossOutput(nll_T.sum(), {"cross_entropy": sum_and_count(nll_T, loss_mask_T)})
