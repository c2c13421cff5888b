"""What every loss returns: a sum, never a mean, so that any split into micro-batches or ranks adds up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """One micro-batch's loss before normalisation.

    Attributes:
        loss_sum: scalar with gradient; divided later by the units of the *global* batch (`count_units`).
        metrics: name -> float64 [2], (sum, count); added over micro-batches and ranks, then divided.
        maxima: name -> float64 scalar; the largest over micro-batches and ranks counts.
    """

    loss_sum: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)


def sum_and_count(value_T: Tensor, mask_T: Tensor) -> Tensor:
    """Return float64 [2]: the sum of `value_T` where `mask_T` is set, and how many positions are set."""
    kept_T = mask_T > 0
    chosen_T = torch.where(kept_T, value_T.detach(), torch.zeros_like(value_T))
    return torch.stack([chosen_T.double().sum(), kept_T.double().sum()])
