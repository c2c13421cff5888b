"""Log-probabilities and entropy of labels from the last hidden states, vocabulary-parallel, without all logits at once.

Shapes: T tokens of a pack; H hidden width; V columns of the vocabulary held by this tensor-parallel rank, its padding
left out; R tokens of a block.

Logits exist for a block of tokens at a time. Where there are several blocks, the backward pass computes them again,
which is a third more work in the output layer; where all tokens are one block, they are kept. Within a block, float32
copies exist for fewer tokens still. Two all-reduces of T-sized vectors combine the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Logits of a block: 128 MiB in bf16, and rows enough for a matrix product to be at full speed.
_BLOCK = 2**26
# float32 elements of a temporary, of which there are two: on a GPU enough to fill it (128 MiB), on a CPU what stays
# in its cache (4 MiB; about 3 times as fast as whole packs).
_GPU_COPY, _CPU_COPY = 32 * 2**20, 2**20


def label_logprobs(
    hidden_TH: Tensor,
    weight: Tensor,
    labels_T: Tensor,
    *,
    vocab_size: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    entropy: bool = True,
    block_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute log softmax(W hidden / temperature)[label] and the entropy of each row.

    Args:
        hidden_TH: [T, H], the same on all ranks of the group; what adds up its gradient over them comes before.
        weight: [rows, H] of this rank: rows rank*rows .. rank*rows + rows of the padded vocabulary.
        labels_T: [T] int64 in the whole vocabulary.
        vocab_size: true size; rows from here on are padding and take no part in the softmax.
        temperature: divides the logits.
        group: the tensor-parallel group; None if the vocabulary is not split.
        entropy: whether the entropy is wanted; it costs another pass over each block.
        block_tokens: tokens of a block; by default as many as its memory allows.

    Returns:
        (logprob_T, entropy_T or None), float32, equal on all ranks of the group; both can be differentiated.
    """
    assert labels_T.shape == (hidden_TH.shape[0],), (hidden_TH.shape, labels_T.shape)
    rows = weight.shape[0]
    offset = 0 if group is None else dist.get_rank(group) * rows
    valid = min(max(vocab_size - offset, 0), rows)
    copied = _GPU_COPY if hidden_TH.is_cuda else _CPU_COPY
    work = _Work(
        offset=offset,
        valid=valid,
        scale=1.0 / temperature,
        group=group,
        entropy=entropy,
        block=block_tokens or max(1, _BLOCK // max(1, valid)),
        copied=max(1, copied // max(1, valid)),
    )
    logprob_T, entropy_T = _LabelLogprobs.apply(hidden_TH, weight, labels_T, work)
    return logprob_T, entropy_T if entropy else None


@dataclass(frozen=True, slots=True)
class _Work:
    """What is the same in both passes.

    Attributes:
        offset: this rank's first row in the vocabulary.
        valid: its rows without padding.
        scale: multiplies the logits.
        group: over which the vocabulary is split.
        entropy: whether it is wanted.
        block: tokens whose logits exist at a time.
        copied: tokens of a float32 copy.
    """

    offset: int
    valid: int
    scale: float
    group: dist.ProcessGroup | None
    entropy: bool
    block: int
    copied: int

    def scaled(self, logits: Tensor) -> Tensor:
        """Return a copy, also of float32 logits: what follows works in place."""
        return logits.to(torch.float32, copy=True).mul_(self.scale)


class _LabelLogprobs(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, weight: Tensor, labels_T: Tensor, work: _Work) -> tuple[Tensor, Tensor]:
        """Gather per-row maximum, sums and label logit block by block, then combine the ranks."""
        tokens = hidden_TH.shape[0]
        local_T = labels_T - work.offset
        mine_T = (local_T >= 0) & (local_T < work.valid)
        local_T = torch.where(mine_T, local_T, 0)
        max_T = torch.full((tokens,), -torch.inf, dtype=torch.float32, device=hidden_TH.device)
        # Rows: sum of exp, sum of exp * x, x of the label; x is relative to this rank's own maximum.
        sums_3T = torch.zeros((3, tokens), dtype=torch.float32, device=hidden_TH.device)
        blocks = _parts(tokens, work.block) if work.valid else []
        kept: Tensor | None = None
        for block in blocks:
            logits_RV = hidden_TH[block] @ weight[: work.valid].t()
            _read(logits_RV, local_T[block], mine_T[block], max_T[block], sums_3T[:, block], work)
            kept = logits_RV if len(blocks) == 1 and any(ctx.needs_input_grad) else None
        if work.group is not None and dist.get_world_size(work.group) > 1:
            _combine(max_T, sums_3T, work.group)
        log_sum_T = sums_3T[0].log()
        logsumexp_T = max_T + log_sum_T
        logprob_T = sums_3T[2] - logsumexp_T
        entropy_T = log_sum_T - sums_3T[1] / sums_3T[0]
        ctx.save_for_backward(hidden_TH, weight, local_T, mine_T, logsumexp_T, entropy_T)
        ctx.work, ctx.kept = work, kept
        ctx.set_materialize_grads(False)
        return logprob_T, entropy_T

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_logprob_T: Tensor | None, grad_entropy_T: Tensor | None) -> tuple[Any, ...]:
        """Turn each block's logits into their gradient, and that into the hidden states' and the weight's."""
        if grad_logprob_T is None and grad_entropy_T is None:
            return None, None, None, None
        hidden_TH, weight, local_T, mine_T, logsumexp_T, entropy_T = ctx.saved_tensors
        work: _Work = ctx.work
        words_VH = weight[: work.valid]
        grad_hidden_TH = torch.empty_like(hidden_TH) if work.valid else torch.zeros_like(hidden_TH)
        # float32: a sum over many blocks must not lose what they add.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for block in _parts(hidden_TH.shape[0], work.block) if work.valid else []:
            logits_RV = hidden_TH[block] @ words_VH.t() if ctx.kept is None else ctx.kept
            grad_RV = _gradient(
                logits_RV,
                local_T[block],
                mine_T[block],
                logsumexp_T[block],
                entropy_T[block],
                None if grad_logprob_T is None else grad_logprob_T[block],
                None if grad_entropy_T is None else grad_entropy_T[block],
                work,
            )
            torch.mm(grad_RV, words_VH, out=grad_hidden_TH[block])
            if weight.dtype == torch.float32:
                grad_weight[: work.valid].addmm_(grad_RV.t(), hidden_TH[block])
            else:
                grad_weight[: work.valid].add_(grad_RV.t() @ hidden_TH[block])
        ctx.kept = None
        return grad_hidden_TH, grad_weight.to(weight.dtype), None, None


def _read(logits_RV: Tensor, local_R: Tensor, mine_R: Tensor, max_R: Tensor, sums_3R: Tensor, work: _Work) -> None:
    """Fill in a block's maximum, sum of exp, sum of exp * x and x of the label."""
    for part in _parts(logits_RV.shape[0], work.copied):
        x = work.scaled(logits_RV[part])
        label = x.gather(1, local_R[part, None])[:, 0]
        max_R[part] = x.amax(1)
        x.sub_(max_R[part, None])
        weights = x.exp()
        sums_3R[0, part] = weights.sum(1)
        if work.entropy:
            sums_3R[1, part] = weights.mul_(x).sum(1)
        sums_3R[2, part] = torch.where(mine_R[part], label, 0.0)


def _combine(max_T: Tensor, sums_3T: Tensor, group: dist.ProcessGroup) -> None:
    """Turn this rank's maximum and sums into those of all ranks."""
    own_T = max_T.clone()
    dist.all_reduce(max_T, op=dist.ReduceOp.MAX, group=group)
    shift_T = own_T - max_T  # -inf where this rank holds padding only
    factor_T = shift_T.exp()
    sums_3T[1] = torch.where(factor_T > 0, (sums_3T[1] + sums_3T[0] * shift_T) * factor_T, 0.0 * sums_3T[1])
    sums_3T[0] *= factor_T
    dist.all_reduce(sums_3T, group=group)


def _gradient(
    logits_RV: Tensor,
    local_R: Tensor,
    mine_R: Tensor,
    logsumexp_R: Tensor,
    entropy_R: Tensor,
    grad_logprob_R: Tensor | None,
    grad_entropy_R: Tensor | None,
    work: _Work,
) -> Tensor:
    """Write d loss / d logits over the logits, by d logprob/dx = onehot - p and dH/dx = -p (log p + H), x scaled."""
    for part in _parts(logits_RV.shape[0], work.copied):
        log_p = work.scaled(logits_RV[part]).sub_(logsumexp_R[part, None])
        p = log_p.exp()
        weight = torch.zeros_like(logsumexp_R[part, None])
        if grad_logprob_R is not None:
            weight = -grad_logprob_R[part, None]
        if grad_entropy_R is not None:
            slope = grad_entropy_R[part, None]
            p.mul_(log_p.add_(entropy_R[part, None]).mul_(-slope).add_(weight))
        else:
            p.mul_(weight)
        if grad_logprob_R is not None:
            own = torch.where(mine_R[part], grad_logprob_R[part], 0.0)
            p.scatter_add_(1, local_R[part, None], own[:, None])
        logits_RV[part] = p.mul_(work.scale)
    return logits_RV


def _parts(tokens: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
