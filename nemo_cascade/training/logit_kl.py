"""KL(teacher || student) over the whole vocabulary from last hidden states, vocabulary-parallel, without all logits.

    KL_t = sum_v p_v (log p_v - log q_v),  p = softmax(teacher's logits / temperature), q the student's
    dKL_t / d student's logit_v = (q_v - p_v) / temperature

Shapes: T tokens; H the student's hidden width, G the teacher's; V columns of the vocabulary held by this
tensor-parallel rank, its padding left out; R tokens of a block. Blocks are those of `logprobs`, of both models' logits.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_cascade.training.logprobs import Columns, add_gradients, parts


def forward_kl(
    hidden_TH: Tensor,
    weight: Tensor,
    teacher_TG: Tensor,
    teacher_weight: Tensor,
    *,
    vocab_size: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    block_tokens: int | None = None,
) -> Tensor:
    """Compute the divergence of each row, in nats (arXiv 2407.14679, section 3; Hinton et al., arXiv 1503.02531).

    Args:
        hidden_TH: [T, H] of the student, the same on all ranks of the group; what adds up its gradient over them comes
            before.
        weight: [rows, H] of the student's output layer on this rank, as for `label_logprobs`.
        teacher_TG: [T, G] of the teacher; it gets no gradient.
        teacher_weight: [rows, G], the same rows of the teacher's.
        vocab_size: true size; rows from here on are padding and take no part.
        temperature: divides both models' logits.
        group: the tensor-parallel group; None if the vocabulary is not split.
        block_tokens: tokens of a block; by default as many as its memory allows.

    Returns:
        kl_T, float32, equal on all ranks of the group; differentiable by the student's hidden states and weight.
    """
    assert weight.shape[0] == teacher_weight.shape[0], (weight.shape, teacher_weight.shape)
    columns = Columns.of(
        weight, vocab_size, temperature=temperature, group=group, gpu=hidden_TH.is_cuda, block_tokens=block_tokens
    )
    kl_T: Tensor = _ForwardKl.apply(hidden_TH, weight, teacher_TG, teacher_weight, columns)
    return kl_T


class _ForwardKl(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight: Tensor, teacher_TG: Tensor, teacher_weight: Tensor, columns: Columns
    ) -> Tensor:
        """Gather per-row maxima and sums block by block, then combine the ranks."""
        tokens, valid = hidden_TH.shape[0], columns.valid
        # Rows: student, teacher. Values are relative to this rank's own maxima.
        max_2T = torch.full((2, tokens), -torch.inf, dtype=torch.float32, device=hidden_TH.device)
        # Rows: the student's sum of exp, the teacher's, and its sum of exp * (teacher - student).
        sums_3T = torch.zeros((3, tokens), dtype=torch.float32, device=hidden_TH.device)
        blocks = columns.blocks(tokens)
        kept: tuple[Tensor, Tensor] | None = None
        for block in blocks:
            logits_RV = hidden_TH[block] @ weight[:valid].t()
            taught_RV = teacher_TG[block] @ teacher_weight[:valid].t()
            _read(logits_RV, taught_RV, max_2T[:, block], sums_3T[:, block], columns)
            kept = (logits_RV, taught_RV) if len(blocks) == 1 and any(ctx.needs_input_grad) else None
        if columns.split and tokens:
            _combine(max_2T, sums_3T, columns.group)
        log_2T = sums_3T[:2].log()
        ctx.save_for_backward(hidden_TH, weight, teacher_TG, teacher_weight, max_2T + log_2T)
        ctx.columns, ctx.kept = columns, kept
        return sums_3T[2] / sums_3T[1] + log_2T[0] - log_2T[1]

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Any, ...]:
        """Turn each block's logits into their gradient, and that into the hidden states' and the weight's."""
        hidden_TH, weight, teacher_TG, teacher_weight, logsumexp_2T = ctx.saved_tensors
        columns: Columns = ctx.columns
        words_VH, theirs_VG = weight[: columns.valid], teacher_weight[: columns.valid]
        grad_hidden_TH = torch.empty_like(hidden_TH) if columns.valid else torch.zeros_like(hidden_TH)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for block in columns.blocks(hidden_TH.shape[0]):
            if ctx.kept is None:
                logits_RV, taught_RV = hidden_TH[block] @ words_VH.t(), teacher_TG[block] @ theirs_VG.t()
            else:
                logits_RV, taught_RV = ctx.kept
            grad_RV = _gradient(logits_RV, taught_RV, logsumexp_2T[:, block], grad_T[block], columns)
            add_gradients(grad_RV, hidden_TH[block], words_VH, grad_hidden_TH[block], grad_weight[: columns.valid])
        ctx.kept = None
        return grad_hidden_TH, grad_weight.to(weight.dtype), None, None, None


def _read(logits_RV: Tensor, taught_RV: Tensor, max_2R: Tensor, sums_3R: Tensor, columns: Columns) -> None:
    """Fill in a block's maxima and sums."""
    for part in parts(logits_RV.shape[0], columns.copied):
        x, y = columns.scaled(logits_RV[part]), columns.scaled(taught_RV[part])
        max_2R[0, part], max_2R[1, part] = x.amax(1), y.amax(1)
        x.sub_(max_2R[0, part, None])
        y.sub_(max_2R[1, part, None])
        weights = y.exp()
        sums_3R[1, part] = weights.sum(1)
        sums_3R[2, part] = weights.mul_(y.sub_(x)).sum(1)
        sums_3R[0, part] = x.exp_().sum(1)


def _combine(max_2T: Tensor, sums_3T: Tensor, group: dist.ProcessGroup | None) -> None:
    """Turn this rank's maxima and sums into those of all ranks."""
    own_2T = max_2T.clone()
    dist.all_reduce(max_2T, op=dist.ReduceOp.MAX, group=group)
    shift_2T = own_2T - max_2T  # -inf where this rank holds padding only
    factor_2T = shift_2T.exp()
    moved_T = (sums_3T[2] + sums_3T[1] * (shift_2T[1] - shift_2T[0])) * factor_2T[1]
    sums_3T[2] = torch.where(factor_2T[1] > 0, moved_T, 0.0 * sums_3T[2])
    sums_3T[:2] *= factor_2T
    dist.all_reduce(sums_3T, group=group)


def _gradient(logits_RV: Tensor, taught_RV: Tensor, logsumexp_2R: Tensor, grad_R: Tensor, columns: Columns) -> Tensor:
    """Write d loss / d the student's logits over them."""
    for part in parts(logits_RV.shape[0], columns.copied):
        q = columns.scaled(logits_RV[part]).sub_(logsumexp_2R[0, part, None]).exp_()
        p = columns.scaled(taught_RV[part]).sub_(logsumexp_2R[1, part, None]).exp_()
        logits_RV[part] = q.sub_(p).mul_(grad_R[part, None]).mul_(columns.scale)
    return logits_RV
