"""A loss in one file: a hinge on a pair's gap in log-probability, without a reference (SLiC-HF, arXiv 2305.10425)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count


@dataclass(frozen=True, slots=True)
class Hinge(Objective):
    """max(0, least_gap - (log pi(chosen) - log pi(rejected))), summed over pairs."""

    least_gap: float = 1.0

    def spec(self) -> LossSpec:
        return LossSpec("pair")

    def loss(self, scored: Scored) -> LossOutput:
        documents, (logprob_T, _) = scored.documents, scored.logprobs()
        trained_T = torch.where(scored.loss_mask > 0, logprob_T, 0.0)
        sums_D = documents.reduce(logprob_T.new_zeros(documents.count).index_add(0, documents.of_token_T, trained_T))
        chosen_P, rejected_P = sums_D[: documents.count // 2 * 2].view(-1, 2).unbind(1)
        gap_P = chosen_P - rejected_P
        told = {"gap": sum_and_count(gap_P, torch.ones_like(gap_P))}
        return LossOutput((self.least_gap - gap_P).clamp(min=0).sum(), told)
