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
    columns = Columns.of(
        weight, vocab_size, temperature=temperature, group=group, gpu=hidden_TH.is_cuda, block_tokens=block_tokens
    )
    logprob_T, entropy_T = _LabelLogprobs.apply(hidden_TH, weight, labels_T, columns, entropy)
    return logprob_T, entropy_T if entropy else None


@dataclass(frozen=True, slots=True)
class Columns:
    """The vocabulary's columns that this rank holds, and of how many tokens logits exist at a time.

    Attributes:
        offset: this rank's first row in the vocabulary.
        valid: its rows without padding.
        scale: multiplies the logits.
        group: over which the vocabulary is split.
        block: tokens whose logits exist at a time.
        copied: tokens of a float32 copy.
    """

    offset: int
    valid: int
    scale: float
    group: dist.ProcessGroup | None
    block: int
    copied: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        vocab_size: int,
        *,
        temperature: float,
        group: dist.ProcessGroup | None,
        gpu: bool,
        block_tokens: int | None,
    ) -> Columns:
        """Return this rank's share of an output layer; its arguments are those of `label_logprobs`."""
        rows = weight.shape[0]
        offset = 0 if group is None else dist.get_rank(group) * rows
        valid = min(max(vocab_size - offset, 0), rows)
        return cls(
            offset=offset,
            valid=valid,
            scale=1.0 / temperature,
            group=group,
            block=block_tokens or max(1, _BLOCK // max(1, valid)),
            copied=max(1, (_GPU_COPY if gpu else _CPU_COPY) // max(1, valid)),
        )

    def blocks(self, tokens: int) -> list[slice]:
        """Return the blocks of so many tokens; none where this rank holds padding only."""
        return parts(tokens, self.block) if self.valid else []

    def scaled(self, logits: Tensor) -> Tensor:
        """Return a copy, also of float32 logits: what follows works in place."""
        return logits.to(torch.float32, copy=True).mul_(self.scale)

    @property
    def split(self) -> bool:
        """Whether other ranks hold other columns."""
        return self.group is not None and dist.get_world_size(self.group) > 1


def add_gradients(grad_RV: Tensor, hidden_RH: Tensor, words_VH: Tensor, grad_RH: Tensor, grad_VH: Tensor) -> None:
    """Turn a block's gradient of logits into that of its hidden states, `grad_RH`, and add the weight's to `grad_VH`.

    The weight's is float32: a sum over many blocks must not lose what they add.
    """
    torch.mm(grad_RV, words_VH, out=grad_RH)
    if words_VH.dtype == torch.float32:
        grad_VH.addmm_(grad_RV.t(), hidden_RH)
    else:
        grad_VH.add_(grad_RV.t() @ hidden_RH)


class _LabelLogprobs(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight: Tensor, labels_T: Tensor, columns: Columns, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Gather per-row maximum, sums and label logit block by block, then combine the ranks."""
        tokens = hidden_TH.shape[0]
        local_T = labels_T - columns.offset
        mine_T = (local_T >= 0) & (local_T < columns.valid)
        local_T = torch.where(mine_T, local_T, 0)
        max_T = torch.full((tokens,), -torch.inf, dtype=torch.float32, device=hidden_TH.device)
        # Rows: sum of exp, sum of exp * x, x of the label; x is relative to this rank's own maximum.
        sums_3T = torch.zeros((3, tokens), dtype=torch.float32, device=hidden_TH.device)
        blocks = columns.blocks(tokens)
        kept: Tensor | None = None
        for block in blocks:
            logits_RV = hidden_TH[block] @ weight[: columns.valid].t()
            own = (local_T[block], mine_T[block])
            _read(logits_RV, *own, max_T[block], sums_3T[:, block], columns, entropy=entropy)
            kept = logits_RV if len(blocks) == 1 and any(ctx.needs_input_grad) else None
        if columns.split:
            _combine(max_T, sums_3T, columns.group)
        log_sum_T = sums_3T[0].log()
        logsumexp_T = max_T + log_sum_T
        logprob_T = sums_3T[2] - logsumexp_T
        entropy_T = log_sum_T - sums_3T[1] / sums_3T[0]
        ctx.save_for_backward(hidden_TH, weight, local_T, mine_T, logsumexp_T, entropy_T)
        ctx.columns, ctx.kept = columns, kept
        ctx.set_materialize_grads(False)
        return logprob_T, entropy_T

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_logprob_T: Tensor | None, grad_entropy_T: Tensor | None) -> tuple[Any, ...]:
        """Turn each block's logits into their gradient, and that into the hidden states' and the weight's."""
        if grad_logprob_T is None and grad_entropy_T is None:
            return None, None, None, None, None
        hidden_TH, weight, local_T, mine_T, logsumexp_T, entropy_T = ctx.saved_tensors
        columns: Columns = ctx.columns
        words_VH = weight[: columns.valid]
        grad_hidden_TH = torch.empty_like(hidden_TH) if columns.valid else torch.zeros_like(hidden_TH)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for block in columns.blocks(hidden_TH.shape[0]):
            logits_RV = hidden_TH[block] @ words_VH.t() if ctx.kept is None else ctx.kept
            grad_RV = _gradient(
                logits_RV,
                local_T[block],
                mine_T[block],
                logsumexp_T[block],
                entropy_T[block],
                None if grad_logprob_T is None else grad_logprob_T[block],
                None if grad_entropy_T is None else grad_entropy_T[block],
                columns,
            )
            add_gradients(grad_RV, hidden_TH[block], words_VH, grad_hidden_TH[block], grad_weight[: columns.valid])
        ctx.kept = None
        return grad_hidden_TH, grad_weight.to(weight.dtype), None, None, None


def _read(
    logits_RV: Tensor,
    local_R: Tensor,
    mine_R: Tensor,
    max_R: Tensor,
    sums_3R: Tensor,
    columns: Columns,
    *,
    entropy: bool,
) -> None:
    """Fill in a block's maximum, sum of exp, sum of exp * x and x of the label."""
    for part in parts(logits_RV.shape[0], columns.copied):
        x = columns.scaled(logits_RV[part])
        label = x.gather(1, local_R[part, None])[:, 0]
        max_R[part] = x.amax(1)
        x.sub_(max_R[part, None])
        weights = x.exp()
        sums_3R[0, part] = weights.sum(1)
        if entropy:
            sums_3R[1, part] = weights.mul_(x).sum(1)
        sums_3R[2, part] = torch.where(mine_R[part], label, 0.0)


def _combine(max_T: Tensor, sums_3T: Tensor, group: dist.ProcessGroup | None) -> None:
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
    columns: Columns,
) -> Tensor:
    """Write d loss / d logits over the logits, by d logprob/dx = onehot - p and dH/dx = -p (log p + H), x scaled."""
    for part in parts(logits_RV.shape[0], columns.copied):
        log_p = columns.scaled(logits_RV[part]).sub_(logsumexp_R[part, None])
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
        logits_RV[part] = p.mul_(columns.scale)
    return logits_RV


def parts(tokens: int, size: int) -> list[slice]:
    """Cut so many tokens into stretches of `size`."""
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
