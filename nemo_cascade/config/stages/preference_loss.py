"""From pairs of responses to gradients: direct preference optimisation and its relatives."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from nemo_cascade.config.base import block


@block
class PreferenceLossConfig:
    """A policy's loss on pairs of responses (losses/preference.py has the formulas)."""

    form: Literal["dpo", "ipo", "rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq"] = "dpo"
    """dpo: arXiv 2305.18290; ipo: arXiv 2310.12036; rpo_bwd_kl: the RPO of arXiv 2406.11704, which fits the pair's
    reward gap, KL(reward gap || policy); rpo_fwd_kl: the same with its arguments swapped; rpo_sq: the squared
    difference."""
    beta: PositiveFloat = 0.1
    """Scale of the policy's gap in log-probability against the reference's."""
    eta: PositiveFloat = 1.0
    """rpo, or dpo with a margin: scale of the pair's reward gap."""
    margin: bool = False
    """dpo: the pair's reward gap, times eta, is subtracted inside the sigmoid (arXiv 2402.10571)."""
    average: bool = False
    """Log-probabilities of a response are means over its tokens instead of sums."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of -log p(chosen) beside it, without which both responses grow less likely (arXiv 2406.11704, section
    3.3.2)."""

    @property
    def reads_rewards(self) -> bool:
        """Whether it needs a reward of both responses."""
        return self.form.startswith("rpo") or self.margin

    @property
    def reads(self) -> list[str]:
        """Tensors that a batch must hold beside its tokens."""
        return ["reference_logprobs", *["rewards"] * self.reads_rewards]
