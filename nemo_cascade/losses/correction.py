"""Importance correction for the gap between trainer and rollout engine.

Even with equal weights the two compute different log-probabilities (kernels, precision, batch shapes). The weight
w_t = exp(logp_trainer - logp_engine), never differentiated, makes the engine's samples unbiased for the trainer's
policy; the variants bound its variance in different ways.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig


@dataclass(frozen=True, slots=True)
class Documents:
    """Which documents the tokens of a micro-batch belong to.

    Attributes:
        of_token_T: int64 [T], each token's document.
        count: documents in the pack.
        reduce: sums a [..., documents] tensor over the ranks that hold other tokens of the same documents (context
            parallelism).
    """

    of_token_T: Tensor
    count: int
    reduce: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Correction:
    """Importance weights of one micro-batch.

    Attributes:
        weight_T: [T], what the policy term is multiplied by.
        touched_T: [T] bool, where the weight was masked to 0 or truncated.
    """

    weight_T: Tensor
    touched_T: Tensor


def importance_correction(
    log_ratio_T: Tensor,
    mask_T: Tensor,
    documents: Documents,
    config: PolicyLossConfig,
) -> Correction:
    """Turn log(trainer / engine) into weights.

    `uncapped`: w. `truncated`: clamp(w, min, max). `icepop`: w where min <= w <= max, else 0. `sequence_mask`: w on
    documents whose geometric-mean ratio over their trained tokens lies in [min, max], else 0 on the whole document.

    Args:
        log_ratio_T: [T], detached, 0 outside `mask_T`.
        mask_T: [T] bool, trained tokens.
        documents: of the tokens.
        config: which variant, and its bounds.
    """
    weight_T = log_ratio_T.exp()
    if config.correction == "none":
        return Correction(torch.ones_like(weight_T), torch.zeros_like(mask_T))
    if config.correction == "uncapped":
        return Correction(weight_T, torch.zeros_like(mask_T))
    low, high = config.correction_min, config.correction_max
    outside_T = ((weight_T < low) | (weight_T > high)) & mask_T
    if config.correction == "truncated":
        return Correction(weight_T.clamp(low, high), outside_T)
    if config.correction == "sequence_mask":
        both_2T = torch.stack([log_ratio_T.double(), mask_T.double()])
        sums_2D = torch.zeros(2, documents.count, dtype=torch.float64, device=log_ratio_T.device)
        sums_2D.index_add_(1, documents.of_token_T, both_2T)
        sums_2D = documents.reduce(sums_2D)
        geometric_mean_D = (sums_2D[0] / sums_2D[1].clamp(min=1)).exp()
        outside_D = (geometric_mean_D < low) | (geometric_mean_D > high)
        outside_T = outside_D[documents.of_token_T] & mask_T
    return Correction(torch.where(outside_T, torch.zeros_like(weight_T), weight_T), outside_T)
