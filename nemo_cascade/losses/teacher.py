"""A teacher's word on each sampled token as its advantage: on-policy distillation as a policy gradient.

    A_t = sg(logp_teacher(y_t) - logp_student(y_t))          bounded to [-clip, clip] where asked for

Its mean over the student's samples is - KL(student || teacher), and the policy gradient with it is that of the same
(arXiv 2603.19220, section 4.4, equations 2 to 4): what the teacher holds likelier than the student rises.
"""

from torch import Tensor

from nemo_cascade.config.stages.policy_loss import TeacherAdvantageConfig
from nemo_cascade.losses.output import sum_and_count


def teacher_advantages(
    teacher_T: Tensor,
    student_T: Tensor,
    mask_T: Tensor,
    config: TeacherAdvantageConfig,
    metrics: dict[str, Tensor],
) -> Tensor:
    """Return the advantage of each token, [T], without gradient.

    Args:
        teacher_T: [T] its log-probabilities, 0 outside `mask_T`.
        student_T: [T] the student's, detached, likewise.
        mask_T: [T] bool, trained tokens.
        config: the bound.
        metrics: are added to: `reverse_kl`, the mean of logp_student - logp_teacher before any bound; where there is
            a bound, `advantage_clip_fraction`.
    """
    advantage_T = teacher_T - student_T
    metrics["reverse_kl"] = sum_and_count(-advantage_T, mask_T)
    if config.clip is None:
        return advantage_T
    outside_T = advantage_T.abs() > config.clip
    metrics["advantage_clip_fraction"] = sum_and_count(outside_T.to(advantage_T.dtype), mask_T)
    return advantage_T.clamp(-config.clip, config.clip)
