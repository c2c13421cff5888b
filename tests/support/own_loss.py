"""A loss in one file: a hinge on a pair's gap in log-probability, without a reference (SLiC-HF, arXiv 2305.10425)."""

from dataclasses import dataclass

import torch

from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count


@dataclass(frozen=True, slots=True)
class Hinge(Objective):
    """max(0, least_gap - (log pi(chosen) - log pi(rejected))), summed over pairs."""

    least_gap: float = 1.0

    def spec(self) -> LossSpec:
        return LossSpec("pair", whole_documents=True)

    def loss(self, scored: Scored) -> LossOutput:
        documents, (logprob_T, _) = scored.documents, scored.logprobs()
        trained_T = torch.where(scored.loss_mask > 0, logprob_T, 0.0)
        both_2T = torch.stack([trained_T, scored.loss_mask.to(trained_T)])
        both_2D = documents.reduce(logprob_T.new_zeros(2, documents.count).index_add(1, documents.of_token_T, both_2T))
        sums_2P2 = both_2D[:, : documents.count // 2 * 2].view(2, -1, 2)
        gap_P, is_pair_P = sums_2P2[0, :, 0] - sums_2P2[0, :, 1], sums_2P2[1].amin(1) > 0  # the rest is padding
        loss_P = torch.where(is_pair_P, (self.least_gap - gap_P).clamp(min=0), 0.0)
        return LossOutput(loss_P.sum(), {"gap": sum_and_count(gap_P, is_pair_P)})
