"""The policy-gradient loss: GRPO as Cascade runs it, and the switches in which published recipes differ.

Per trained token t with advantage A (arXiv 2512.13607 section 4.1.2; the switches as in NeMo-RL), which is its
response's, or of a teacher's making (`teacher.py`):

    on-policy   rho = exp(logp - sg(logp))                 value 1, gradient grad logp: REINFORCE
    otherwise   rho = exp(logp - logp_previous)
    policy      w * max(-A rho, -A clip(rho, 1 - low, 1 + high)), where A < 0 at most -A c with dual clip
    kl          + kl_coefficient * v * (exp(d) - 1 - d),  d = logp_reference - logp
    entropy     - entropy_coefficient * H

w is the importance weight trainer / engine (`correction.py`), of the policy term only; v the KL term's (`_kl_weight`).
Shapes: T tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.errors import ConfigError, TrainingError
from nemo_cascade.losses.correction import Documents, importance_correction
from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count
from nemo_cascade.losses.teacher import teacher_advantages
from nemo_cascade.losses.units import CONTINUED

_MAX_LOG_RATIO = 20.0


_KNOWN = {
    *("advantages", "teacher_logprobs", "sequence_weights", CONTINUED),
    *("behaviour_logprobs", "previous_logprobs", "reference_logprobs"),
}


@dataclass(frozen=True, slots=True)
class PolicyLoss(Objective):
    """The policy gradient.

    Attributes:
        config: its switches.
        temperature: of the sampling distribution, whose log-probabilities are the policy's.
        reference_hf_path: HF folder of a frozen second model, for `logprobs(which="reference")`.
        teacher: how teachers' log-probabilities are the advantages; None: those come with the batch.

    Raises:
        ConfigError: no such temperature.
    """

    config: PolicyLossConfig
    temperature: float = 1.0
    reference_hf_path: str | None = None
    teacher: TeacherAdvantageConfig | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError([f"temperature {self.temperature} can't score log-probabilities; it must be above 0"])

    @classmethod
    def from_start(
        cls,
        config: PolicyLossConfig,
        temperature: float,
        start: str,
        teacher: TeacherAdvantageConfig | None = None,
    ) -> PolicyLoss:
        """Return it with the model that a stage starts from as its reference, where the switches ask for one."""
        return cls(config, temperature, start if config.kl_coefficient > 0 else None, teacher)

    def logit_temperature(self) -> float:
        """Return the sampling distribution's."""
        return self.temperature

    def reference_folder(self) -> str | None:
        """Return the reference's folder."""
        return self.reference_hf_path

    def spec(self) -> LossSpec:
        """Return what it reads: by its switches."""
        config, teacher = self.config, self.teacher
        extras = {
            "advantages": teacher is None,
            "teacher_logprobs": teacher is not None,
            "previous_logprobs": teacher is not None and teacher.student == "previous",
            "behaviour_logprobs": config.correction != "none" or (config.kl_coefficient > 0 and config.kl_correction),
            "reference_logprobs": config.kl_coefficient > 0,
            "sequence_weights": config.aggregation == "sequence",
        }
        return LossSpec(config.aggregation, frozenset(name for name, wanted in extras.items() if wanted))

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch."""
        logprob_T, entropy_T = scored.logprobs(entropy=True)
        if self.config.entropy_coefficient == 0 and entropy_T is not None:
            entropy_T = entropy_T.detach()  # measured only: spares its share of the backward pass
        return policy_loss(
            logprob_T, entropy_T, scored.loss_mask, scored.documents, scored.extras, self.config, self.teacher
        )


def policy_loss(
    logprob_T: Tensor,
    entropy_T: Tensor | None,
    loss_mask_T: Tensor,
    documents: Documents,
    extras: Mapping[str, Tensor],
    config: PolicyLossConfig,
    teacher: TeacherAdvantageConfig | None = None,
) -> LossOutput:
    """Compute the summed loss of one micro-batch; the caller divides by the global batch's `count_units`.

    Args:
        logprob_T: [T] log-probability of each label under the policy, sampling temperature applied, with gradient.
        entropy_T: [T] entropy of the policy at each label in nats; None if it isn't measured.
        loss_mask_T: [T], 1 on response tokens that are trained.
        documents: of the tokens.
        extras: further [T] aligned with the labels. `advantages`: of each token's response. `behaviour_logprobs`: of
            the sampled token by the engine. `previous_logprobs`: the trainer's, before the first update on this rollout
            batch; absent when strictly on-policy. `reference_logprobs`: the frozen reference policy's.
            `sequence_weights`: 1 / (trained tokens of the token's response, in all its documents).
            `teacher_logprobs`: in place of `advantages` where a teacher gives them.
        config: the switches.
        teacher: how a teacher's log-probabilities are the advantages; None: `advantages` are given.

    Returns:
        Loss sum. Metrics over trained tokens, where their inputs exist: `entropy`, `clip_fraction`, `kl_reference`
        (k3), `kl_engine` (k3 of engine from trainer), `logprob_difference_mean` (|trainer - engine|),
        `importance_weight` (before any bound), `correction_fraction` (tokens masked or truncated), and those of
        `teacher_advantages`. Maximum: `logprob_difference_max`. Under top-p or top-k the engine scores the cut
        distribution: they differ by the cut.

    Raises:
        TrainingError: a tensor that the switches need is missing, or an extra has an unknown name.
    """
    if unknown := sorted(set(extras) - _KNOWN):
        raise TrainingError("unknown tensors for the policy loss", value=unknown, limit=sorted(_KNOWN))
    mask_T = loss_mask_T > 0
    # Padding and prompt tokens carry no log-probabilities: set to a constant before exp(), so that no inf or NaN of
    # theirs reaches a sum or, through 0 * inf, a gradient.
    current_T = _masked(logprob_T.float() if logprob_T.dtype != torch.float64 else logprob_T, mask_T)
    weight_T = mask_T.to(current_T.dtype)
    if config.aggregation == "sequence":
        weight_T = _masked(_needed(extras, "sequence_weights", "aggregation is sequence").to(current_T), mask_T)
    metrics: dict[str, Tensor] = {}
    maxima: dict[str, Tensor] = {}

    advantage_T = _advantages(current_T.detach(), mask_T, extras, teacher, metrics)
    loss_T = _policy_term(advantage_T, current_T, mask_T, extras, config, metrics)
    loss_T = loss_T * _engine_weight(current_T, mask_T, documents, extras, config, metrics, maxima)
    if config.kl_coefficient > 0:
        _needed(extras, "reference_logprobs", "kl_coefficient is above 0")
    if "reference_logprobs" in extras:
        difference_T = _masked(extras["reference_logprobs"].to(current_T), mask_T) - current_T
        metrics["kl_reference"] = sum_and_count(_k3(difference_T), mask_T)
        if config.kl_coefficient > 0:
            kl_T = _kl_weight(current_T, mask_T, extras, config) * _bounded_k3(difference_T, config.kl_max)
            loss_T = loss_T + config.kl_coefficient * kl_T
    if entropy_T is not None:
        entropy_T = _masked(entropy_T.to(current_T.dtype), mask_T)
        metrics["entropy"] = sum_and_count(entropy_T, mask_T)
        loss_T = loss_T - config.entropy_coefficient * entropy_T
    elif config.entropy_coefficient > 0:
        raise TrainingError("the policy loss needs the entropy because entropy_coefficient is above 0")
    return LossOutput((loss_T * weight_T).sum(), metrics, maxima)


def _advantages(
    current_T: Tensor,
    mask_T: Tensor,
    extras: Mapping[str, Tensor],
    teacher: TeacherAdvantageConfig | None,
    metrics: dict[str, Tensor],
) -> Tensor:
    """Return each token's advantage: its response's, or its teacher's word on it."""
    if teacher is None:
        return _masked(_needed(extras, "advantages", "it is one of policy gradients").to(current_T), mask_T)
    taught_T = _masked(_needed(extras, "teacher_logprobs", "a teacher gives the advantages").to(current_T), mask_T)
    if teacher.student == "previous":
        current_T = _masked(_needed(extras, "previous_logprobs", "advantage.student asks").to(current_T), mask_T)
    return teacher_advantages(taught_T, current_T, mask_T, teacher, metrics)


def _policy_term(
    advantage_T: Tensor,
    current_T: Tensor,
    mask_T: Tensor,
    extras: Mapping[str, Tensor],
    config: PolicyLossConfig,
    metrics: dict[str, Tensor],
) -> Tensor:
    """Return -A rho, clipped where an earlier update made the policy differ from the previous one."""
    if "previous_logprobs" not in extras:
        return -advantage_T * (current_T - current_T.detach()).exp()
    log_ratio_T = current_T - _masked(extras["previous_logprobs"].to(current_T), mask_T)
    # Clipping has taken over long before; without a bound, 0 * exp(89) of a token with A = 0 is NaN in float32.
    ratio_T = log_ratio_T.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    clipped_T = ratio_T.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    free_T, bounded_T = -advantage_T * ratio_T, -advantage_T * clipped_T
    metrics["clip_fraction"] = sum_and_count((bounded_T > free_T).to(current_T.dtype), mask_T)
    loss_T = torch.maximum(free_T, bounded_T)
    if config.clip_dual is not None:
        loss_T = torch.where(advantage_T < 0, torch.minimum(loss_T, -advantage_T * config.clip_dual), loss_T)
    return loss_T


def _kl_weight(current_T: Tensor, mask_T: Tensor, extras: Mapping[str, Tensor], config: PolicyLossConfig) -> Tensor:
    """Return the KL term's importance weight: policy / engine, or 1; with gradient where that is `weighted`.

    E_policy[k3] = KL(policy || reference), but samples don't follow the parameters: the gradient of the estimator alone
    lacks that of the distribution which it is taken over (arXiv 2506.09477). exp(logp - sg(logp)) supplies it.
    """
    base_T = current_T.detach()
    if config.kl_correction:
        base_T = _masked(_needed(extras, "behaviour_logprobs", "kl_correction is on").to(current_T), mask_T)
    ratio_T = (current_T - base_T).exp()
    return ratio_T if config.kl_gradient == "weighted" else ratio_T.detach()


def _engine_weight(
    current_T: Tensor,
    mask_T: Tensor,
    documents: Documents,
    extras: Mapping[str, Tensor],
    config: PolicyLossConfig,
    metrics: dict[str, Tensor],
    maxima: dict[str, Tensor],
) -> Tensor:
    """Return the importance weight trainer / engine and record how far the two are apart."""
    if config.correction != "none":
        _needed(extras, "behaviour_logprobs", f"correction is {config.correction}")
    if "behaviour_logprobs" not in extras:
        return torch.ones_like(current_T)
    trainer_T = extras.get("previous_logprobs", current_T)
    log_ratio_T = _masked(trainer_T.detach().to(current_T) - extras["behaviour_logprobs"].to(current_T), mask_T)
    correction = importance_correction(log_ratio_T, mask_T, documents, config)
    difference_T = log_ratio_T.abs()
    metrics["logprob_difference_mean"] = sum_and_count(difference_T, mask_T)
    # In float64: one token that the engine holds 88 nats less likely would make the mean infinite in float32.
    metrics["importance_weight"] = sum_and_count(log_ratio_T.double().exp(), mask_T)
    metrics["kl_engine"] = sum_and_count(_k3(log_ratio_T), mask_T)
    if config.correction != "none":
        metrics["correction_fraction"] = sum_and_count(correction.touched_T.to(current_T.dtype), mask_T)
    maxima["logprob_difference_max"] = difference_T.max().double()
    return correction.weight_T


def _needed(extras: Mapping[str, Tensor], name: str, reason: str) -> Tensor:
    """Return a tensor that a setting makes necessary.

    Raises:
        TrainingError: it is missing.
    """
    if name not in extras:
        raise TrainingError(f"the policy loss needs `{name}` in the batch because {reason}", value=sorted(extras))
    return extras[name]


def _masked(value_T: Tensor, mask_T: Tensor) -> Tensor:
    return torch.where(mask_T, value_T, torch.zeros_like(value_T))


def _k3(log_ratio_T: Tensor) -> Tensor:
    """Return exp(d) - 1 - d, Schulman's unbiased, non-negative estimator; expm1 keeps small d exact."""
    return torch.expm1(log_ratio_T) - log_ratio_T


def _bounded_k3(log_ratio_T: Tensor, most: float | None) -> Tensor:
    """Return k3, at most `most` and without gradient above it; as verl and NeMo-RL bound it by default."""
    if most is None:
        return _k3(log_ratio_T)
    return _k3(log_ratio_T.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)).clamp(max=most)
