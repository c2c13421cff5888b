"""Choices of experts that a router is given, in place of its own top-k. Imports torch alone.

Shapes: T tokens, E experts, K experts of a token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Replay:
    """Choices that a router makes whatever its logits are; the weights of the experts are those of its present logits.

    Rollout routing replay (arXiv 2510.11370, section 4): the mask comes from the engine, the gates and their gradient
    from the trainer. Megatron's routing asks this in place of its top-k.

    Attributes:
        chosen_TK: int64, -1 where the router chooses.
        other_T1: bool, where the router would have chosen other experts than it was given; set as it is asked.
    """

    chosen_TK: Tensor
    other_T1: Tensor | None = None

    @property
    def given_T1(self) -> Tensor:
        """Where there are choices."""
        return self.chosen_TK[:, :1] >= 0

    def counts_2(self) -> Tensor:
        """Return of how many tokens there are choices, and for how many of those the router's would be others."""
        assert self.other_T1 is not None, "counted once it was asked"
        return torch.stack([self.given_T1.sum(), self.other_T1.sum()])

    def get_replay_topk(
        self,
        scores_TE: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return scores and numbers of the experts, [T, K] both, in the order of top-k: that of falling scores.

        So where both agree the results are the same bits, in whatever order the engine names its choices.
        """
        assert default_compute_topk is not None, "Megatron hands its own top-k over"
        own_score_TK, own_TK = default_compute_topk(scores_TE, topk, num_groups=num_groups, group_topk=group_topk)
        score_TK, order_TK = scores_TE.gather(1, self.chosen_TK.clamp(min=0)).sort(1, descending=True)
        chosen_TK = self.chosen_TK.gather(1, order_TK)
        differs_T1 = (own_TK.sort(1).values != chosen_TK.sort(1).values).any(1, keepdim=True)
        self.other_T1 = differs_T1 & self.given_T1
        return torch.where(self.given_T1, score_TK, own_score_TK), torch.where(self.given_T1, chosen_TK, own_TK)
