"""From rewards, or a teacher's word, to gradients: advantages, distillation and policy loss."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from nemo_cascade.config.base import block
from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.errors import CascadeError


@block
class AdvantageConfig:
    """Group-relative advantage (arXiv 2512.13607, section 4.1.2; recipes differ in the switches)."""

    baseline: Literal["mean", "leave_one_out"] = "mean"
    """Mean of the group, or of the other G-1 rollouts."""
    normalize_by_std: bool = True
    """Divide by the group's standard deviation, with Bessel's factor (off: Dr. GRPO)."""
    std_epsilon: PositiveFloat = 1e-6
    """Added to the standard deviation; a group whose spread is below it has advantage 0."""


@block
class TeacherAdvantageConfig:
    """Advantage of each sampled token by a teacher's word on it: logp_teacher - logp_student, not differentiated
    (multi-domain on-policy distillation, Nemotron-Cascade 2, arXiv 2603.19220, equations 2 to 4).
    """

    student: Literal["current", "previous"] = "current"
    """Whose log-probability is subtracted: that of the pass that trains (Nemotron-Cascade 2), or of a pass before it
    (NeMo-RL's mopd). With one update a batch both are of the same weights; the second costs a forward pass."""
    clip: PositiveFloat | None = None
    """Bound of the advantage in nats, on both sides (Nemotron 3 Ultra: 20; its SWE teacher: 100). Null: none
    (Nemotron-Cascade 2)."""


@block
class LogitTeacherConfig:
    """A frozen model whose distribution over the whole vocabulary is learned at every trained token, in place of its
    label alone (losses/distillation.py has the formula).
    """

    model: str
    """Who teaches: an earlier stage of this run, `start`, or an HF folder with the same tokenizer and vocabulary. It is
    held by the policy's ranks, in their layout."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of both; the divergence is multiplied by its square."""
    cross_entropy_weight: NonNegativeFloat = 0.0
    """Weight of the label's cross entropy beside it; 0: the divergence alone (arXiv 2407.14679, section 3)."""


@block
class PolicyLossConfig:
    """The policy-gradient loss. The defaults are Cascade's: on-policy, token-level, no KL, no entropy."""

    aggregation: Literal["token", "sequence"] = "token"
    """token: one pool of all tokens of the global batch; sequence: mean per response, then mean over responses."""
    clip_ratio_low: PositiveFloat = 0.2
    """PPO ratio is clipped below at 1 - this; inert while there is one update per batch."""
    clip_ratio_high: PositiveFloat = 0.2
    """PPO ratio is clipped above at 1 + this (DAPO's clip-higher: 0.28)."""
    clip_dual: Annotated[float, Field(gt=1)] | None = None
    """Where the advantage is negative, the PPO ratio counts at most this much (dual clip, arXiv 1912.09729; verl: 3,
    Nemotron's recipes: null); inert while there is one update per batch."""
    correction: Literal["none", "uncapped", "truncated", "icepop", "sequence_mask"] = "none"
    """Importance weight trainer/engine: none; uncapped, as it is (Nemotron 3 Nano); truncated to [min, max]; tokens
    outside [min, max] masked (IcePop); sequences whose geometric-mean ratio lies outside [min, max] masked, token
    weight uncapped otherwise."""
    correction_min: NonNegativeFloat = 0.0
    """Lower bound of the importance weight."""
    correction_max: PositiveFloat = 2.0
    """Upper bound of the importance weight."""
    sequence_error_max: Annotated[float, Field(gt=1)] | None = None
    """Responses over whose tokens the mean of exp(|logp_trainer - logp_engine|) exceeds this aren't trained and leave
    the normaliser; their rewards stay in the group's baseline (Nemotron 3 Nano and MOPD: 2). Null: none is left out."""
    kl_coefficient: NonNegativeFloat = 0.0
    """Weight of the KL term, whose value per token is k3 = exp(d) - 1 - d with d = logp_ref - logp: on average over the
    policy's samples KL(policy || reference). What its gradient is, `kl_gradient` says."""
    kl_gradient: Literal["plain", "weighted"] = "plain"
    """plain: k3's own derivative, 1 - exp(d) times grad logp, on average the gradient of KL(reference || policy) (paper
    of GRPO, verl, TRL, NeMo-RL before June 2026); weighted: that of exp(logp - sg(logp)) k3, -d times grad logp, on
    average the gradient of KL(policy || reference) (NeMo-RL since)."""
    kl_correction: bool = False
    """Multiply the KL term by the importance weight policy/engine, uncapped (Nemotron 3's recipes, whose KL is over
    the engine's samples); differentiated where kl_gradient is weighted."""
    kl_max: PositiveFloat | None = None
    """k3 of a token counts at most this much, and has no gradient above (verl and NeMo-RL by default: 10; Nemotron's
    recipes: null)."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""


def sampled_is_scored(
    prefix: str, sampling: SamplingConfig, loss: PolicyLossConfig, *, stale: bool = False
) -> Iterator[CascadeError]:
    """Yield why log-probabilities of what is sampled can't be compared with the engine's, or bounds that allow none.

    Importance weights compare the trainer's full softmax with the engine's; truncated sampling is another law.
    `stale`: the correction isn't the loss' own, but what stale rollouts have by default.
    """
    truncated = [f"top_p={sampling.top_p}"] * (sampling.top_p < 1) + [f"top_k={sampling.top_k}"] * (sampling.top_k > 0)
    compared = [f"correction={loss.correction}"] * (loss.correction != "none")
    compared += ["kl_correction=true"] * loss.kl_correction
    compared += [f"sequence_error_max={loss.sequence_error_max}"] * (loss.sequence_error_max is not None)
    otherwise = f"none of these in {prefix}.loss"
    if stale:
        without = f"{prefix}.correct_staleness=false: stale rollouts are then trained as if they were fresh"
        otherwise = without if len(compared) == 1 else f"{without}, and {otherwise}"
    if compared and truncated:
        yield CascadeError(
            "importance weights need the sampled distribution to be the scored one",
            value=f"{prefix}.loss: {', '.join(compared)} with sampling {', '.join(truncated)}",
            limit="top_p=1 and top_k=0",
            mend=f"{prefix}.sampling.top_p=1.0 {prefix}.sampling.top_k=0, or {otherwise}",
        )
    if loss.correction not in ("none", "uncapped") and loss.correction_min >= loss.correction_max:
        value = f"{prefix}.loss.correction_min={loss.correction_min}"
        limit = f"less than correction_max={loss.correction_max}"
        yield CascadeError(
            "no importance weight is allowed", value=value, limit=limit, mend=f"{prefix}.loss.correction_min=0"
        )
    if loss.clip_ratio_low >= 1:
        value = f"{prefix}.loss.clip_ratio_low={loss.clip_ratio_low}"
        yield CascadeError(
            "the ratio is clipped at or below 0", value=value, limit="below 1", mend=f"{prefix}.loss.clip_ratio_low=0.2"
        )
