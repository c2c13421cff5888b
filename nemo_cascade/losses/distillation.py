"""Distillation of logits: a teacher's whole distribution is learned at every trained token, not one label.

    loss_t = temperature^2 KL(teacher || student)_t + cross_entropy_weight * -log q(label_t)

Both distributions of the divergence are at the temperature, whose square keeps its gradient's size (arXiv 1503.02531,
section 2); the cross entropy is at 1. Minitron (arXiv 2407.14679, section 3) and Nemotron Nano 2 (arXiv 2508.14444)
learn by the divergence alone. Shapes: N trained tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count


@dataclass(frozen=True, slots=True)
class LogitDistillation(Objective):
    """A teacher's distribution at every trained token.

    Attributes:
        config: temperature and mixture.
        teacher_hf_path: HF folder of the teacher, which the same ranks hold.
    """

    config: LogitTeacherConfig
    teacher_hf_path: str

    def teacher_folder(self) -> str:
        """Return the teacher's folder."""
        return self.teacher_hf_path

    def spec(self) -> LossSpec:
        """Return what it reads: labels, and the teacher that its ranks hold."""
        return LossSpec("token")

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch."""
        mixed = self.config.cross_entropy_weight > 0
        logprob_N = scored.trained_logprobs() if mixed else None
        return distillation_loss(scored.teacher_kl(self.config.temperature), logprob_N, self.config)


def distillation_loss(kl_N: Tensor, logprob_N: Tensor | None, config: LogitTeacherConfig) -> LossOutput:
    """Sum the loss over trained tokens.

    Args:
        kl_N: [N] KL(teacher || student) at the temperature, with gradient.
        logprob_N: [N] the student's log-probability of each label, with gradient; None: no cross entropy is mixed in.
        config: temperature and mixture.

    Returns:
        The summed loss; metric `forward_kl` (nats per trained token), and `cross_entropy` where it is mixed in.
    """
    every_N = torch.ones_like(kl_N)
    metrics = {"forward_kl": sum_and_count(kl_N, every_N)}
    loss = config.temperature**2 * kl_N.sum()
    if logprob_N is not None:
        metrics["cross_entropy"] = sum_and_count(-logprob_N, every_N)
        loss = loss - config.cross_entropy_weight * logprob_N.sum()
    return LossOutput(loss, metrics)
