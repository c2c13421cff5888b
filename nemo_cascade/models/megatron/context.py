"""Context parallelism without Transformer Engine: who holds which tokens, and attention over all ranks' keys.

Each document is cut in 2 x CP pieces, and rank r holds pieces r and 2 x CP - 1 - r: so all have as much to attend to.
That is the order in which Megatron-Core turns rotary positions and Transformer Engine attends (`thd_partition`).

Shapes: T tokens of the pack, C of this rank's share (T / CP), N query heads, K key/value heads, D head width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from nemo_cascade.types import Int64


def context_share(boundaries: Sequence[int], rank: int, size: int) -> Int64:
    """Return [C], the pack's tokens that a rank holds, in its order.

    Args:
        boundaries: [documents + 1], rising from 0; with several ranks, every document a multiple of 2 x size.
        rank: place on the context axis.
        size: ranks on it.
    """
    if size == 1:
        return np.arange(boundaries[-1], dtype=np.int64)
    parts = []
    for begin, end in pairwise(boundaries):
        piece, rest = divmod(end - begin, 2 * size)
        assert not rest, "a document is no multiple of 2 x CP tokens"
        parts.append(np.arange(begin + rank * piece, begin + (rank + 1) * piece))
        parts.append(np.arange(end - (rank + 1) * piece, end - rank * piece))
    share_C: Int64 = np.concatenate(parts).astype(np.int64)
    return share_C


def attend_over_context(
    q_CND: torch.Tensor, k_CKD: torch.Tensor, v_CKD: torch.Tensor, boundaries: Sequence[int], scale: float, group: Any
) -> torch.Tensor:
    """Attend causally within each document, whose keys and values all ranks of the group hold together; [C, N, D].

    Args:
        q_CND: this rank's queries.
        k_CKD: its keys.
        v_CKD: its values.
        boundaries: of the whole pack.
        scale: of the scores.
        group: the context axis.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    order = np.concatenate([context_share(boundaries, r, size) for r in range(size)])
    place_T = torch.from_numpy(np.argsort(order)).to(k_CKD.device)
    both = _Gather.apply(torch.stack([k_CKD, v_CKD], 1), group).index_select(0, place_T)
    k_TKD, v_TKD = both.unbind(1)
    outputs, start = [], 0
    for begin, end in pairwise(boundaries):
        piece = (end - begin) // (2 * size)
        for number in (rank, 2 * size - 1 - rank):
            seen = begin + (number + 1) * piece
            query = row(q_CND[start : start + piece])
            outputs.append(attend_to_all(query, row(k_TKD[begin:seen]), row(v_TKD[begin:seen]), scale))
            start += piece
    return torch.cat(outputs)


def row(x_TND: torch.Tensor) -> torch.Tensor:
    """Return one document's [S, N, D] as SDPA takes it, [1, N, S, D]."""
    return x_TND.transpose(0, 1)[None]


def attend_to_all(q_1NSD: torch.Tensor, k_1KSD: torch.Tensor, v_1KSD: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend from the last tokens of a document to all before them; [S, N, D]."""
    bias = causal_lower_right(q_1NSD.shape[2], k_1KSD.shape[2])
    grouped = q_1NSD.shape[1] != k_1KSD.shape[1]
    output = F.scaled_dot_product_attention(q_1NSD, k_1KSD, v_1KSD, attn_mask=bias, scale=scale, enable_gqa=grouped)
    return output[0].transpose(0, 1)


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """All ranks' shares, one after the other; backward, each rank's gradient summed over the ranks that used it."""

    @staticmethod
    def forward(ctx: Any, share: torch.Tensor, group: Any) -> torch.Tensor:
        """Return [CP x C, ...]."""
        ctx.group = group
        whole = share.new_empty((dist.get_world_size(group) * share.shape[0], *share.shape[1:]))
        dist.all_gather_into_tensor(whole, share.contiguous(), group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return [C, ...]."""
        size = dist.get_world_size(ctx.group)
        own = gradient.new_empty((gradient.shape[0] // size, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(own, gradient.contiguous(), group=ctx.group)
        return own, None
