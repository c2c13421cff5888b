"""Log-probabilities and entropy from vocabulary-parallel logits, without a second copy of them.

Shapes: T tokens of a pack; V columns of the vocabulary held by this tensor-parallel rank. Logits stay in the model's
dtype; float32 copies exist only for a chunk of tokens at a time, in the forward and in the backward pass. Two
all-reduces of T-sized vectors combine the ranks, whatever the number of chunks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# float32 elements of a temporary, of which there are two: on a GPU enough to fill it (128 MiB), on a CPU what stays
# in its cache (4 MiB; about 3 times as fast as whole packs).
_GPU_CHUNK, _CPU_CHUNK = 32 * 2**20, 2**20


def label_logprobs(
    logits_TV: Tensor,
    labels_T: Tensor,
    *,
    vocab_size: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    entropy: bool = True,
    overwrite_logits: bool = False,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute log softmax(logits / temperature)[label] and the entropy of each row.

    Args:
        logits_TV: [T, V] of this rank: columns rank*V .. rank*V + V of the padded vocabulary.
        labels_T: [T] int64 in the whole vocabulary.
        vocab_size: true size; columns from here on are padding and take no part in the softmax.
        temperature: divides the logits.
        group: the tensor-parallel group; None if the vocabulary is not split.
        entropy: whether the entropy is wanted; it costs another pass over each chunk.
        overwrite_logits: let the backward pass write its gradient into `logits_TV`'s own memory. Only for logits that
            nobody reads afterwards.
        chunk_tokens: rows worked on at a time; by default what suits the device.

    Returns:
        (logprob_T, entropy_T or None), float32, equal on all ranks of the group; both can be differentiated.
    """
    assert labels_T.shape == (logits_TV.shape[0],), (logits_TV.shape, labels_T.shape)
    columns = logits_TV.shape[1]
    rows = chunk_tokens or max(1, (_GPU_CHUNK if logits_TV.is_cuda else _CPU_CHUNK) // columns)
    offset = 0 if group is None else dist.get_rank(group) * columns
    valid = min(max(vocab_size - offset, 0), columns)
    logprob_T, entropy_T = _LabelLogprobs.apply(
        logits_TV, labels_T, offset, valid, 1.0 / temperature, group, entropy, overwrite_logits, rows
    )
    return logprob_T, entropy_T if entropy else None


class _LabelLogprobs(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: Tensor,
        labels_T: Tensor,
        offset: int,
        valid: int,
        scale: float,
        group: dist.ProcessGroup | None,
        entropy: bool,
        overwrite: bool,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        """Gather per-row maximum, sums and label logit chunk by chunk, then combine the ranks."""
        tokens = logits_TV.shape[0]
        float_T = {"dtype": torch.float32, "device": logits_TV.device}
        local_T = labels_T - offset
        mine_T = (local_T >= 0) & (local_T < valid)
        local_T = torch.where(mine_T, local_T, 0)
        max_T = torch.full((tokens,), -torch.inf, **float_T)
        # Rows: sum of exp, sum of exp * x, x of the label; x is relative to this rank's own maximum.
        sums_3T = torch.zeros((3, tokens), **float_T)
        for part in _chunks(tokens, rows) if valid else ():
            x = _scaled_copy(logits_TV[part, :valid], scale)
            label = x.gather(1, local_T[part, None])[:, 0]
            max_T[part] = x.amax(1)
            x.sub_(max_T[part, None])
            weights = x.exp()
            sums_3T[0, part] = weights.sum(1)
            if entropy:
                sums_3T[1, part] = weights.mul_(x).sum(1)
            sums_3T[2, part] = torch.where(mine_T[part], label, 0.0)
        if group is not None and dist.get_world_size(group) > 1:
            own_T = max_T.clone()
            dist.all_reduce(max_T, op=dist.ReduceOp.MAX, group=group)
            shift_T = own_T - max_T  # -inf where this rank holds padding only
            factor_T = shift_T.exp()
            sums_3T[1] = torch.where(factor_T > 0, (sums_3T[1] + sums_3T[0] * shift_T) * factor_T, 0.0 * sums_3T[1])
            sums_3T[0] *= factor_T
            dist.all_reduce(sums_3T, group=group)
        log_sum_T = sums_3T[0].log()
        logsumexp_T = max_T + log_sum_T
        logprob_T = sums_3T[2] - logsumexp_T
        entropy_T = log_sum_T - sums_3T[1] / sums_3T[0]
        ctx.save_for_backward(logits_TV, local_T, mine_T, logsumexp_T, entropy_T)
        ctx.valid, ctx.scale, ctx.overwrite, ctx.rows = valid, scale, overwrite, rows
        ctx.set_materialize_grads(False)
        return logprob_T, entropy_T

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_logprob_T: Tensor | None, grad_entropy_T: Tensor | None) -> tuple[Any, ...]:
        """Apply d logprob/dx = (onehot - p) and dH/dx = -p (log p + H), x being the scaled logits."""
        logits_TV, local_T, mine_T, logsumexp_T, entropy_T = ctx.saved_tensors
        nothing = (None,) * 8
        if grad_logprob_T is None and grad_entropy_T is None:
            return None, *nothing
        grad_TV = logits_TV.detach() if ctx.overwrite else torch.empty_like(logits_TV)
        for part in _chunks(logits_TV.shape[0], ctx.rows):
            log_p = _scaled_copy(logits_TV[part, : ctx.valid], ctx.scale).sub_(logsumexp_T[part, None])
            p = log_p.exp()
            weight = torch.zeros_like(logsumexp_T[part, None])
            if grad_logprob_T is not None:
                weight = -grad_logprob_T[part, None]
            if grad_entropy_T is not None:
                slope = grad_entropy_T[part, None]
                p.mul_(log_p.add_(entropy_T[part, None]).mul_(-slope).add_(weight))
            else:
                p.mul_(weight)
            if grad_logprob_T is not None and ctx.valid:
                own = torch.where(mine_T[part], grad_logprob_T[part], 0.0)
                p.scatter_add_(1, local_T[part, None], own[:, None])
            grad_TV[part, : ctx.valid] = p.mul_(ctx.scale)
            grad_TV[part, ctx.valid :] = 0
        return grad_TV, *nothing


def _chunks(tokens: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _scaled_copy(logits: Tensor, scale: float) -> Tensor:
    # Always a copy, also of float32 logits: what follows works in place.
    return logits.to(torch.float32, copy=True).mul_(scale)
