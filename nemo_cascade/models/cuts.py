"""Tensor-parallel cuts: a rank's shard out of HF tensors, and HF tensors out of all ranks' shards.

The inverse of one another, bit for bit. Reading takes only the rows that the rank owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from nemo_cascade.models.architectures import Architecture
from nemo_cascade.models.maps import Cut, Shape


class Slice(Protocol):
    """A tensor on disk of which parts can be read (safetensors' PySafeSlice)."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read a part."""
        ...

    def get_shape(self) -> list[int]:
        """Return the whole tensor's shape."""
        ...


def take(cut: Cut, sources: Sequence[Slice], shape: Shape, rank: int, size: int, arch: Architecture) -> torch.Tensor:
    """Read one rank's shard of a parameter.

    Args:
        cut: how the parameter is cut.
        sources: its HF tensors.
        shape: the shard's shape.
        rank: tensor-parallel rank.
        size: tensor-parallel size.
        arch: head geometry for QKV.

    Returns:
        The shard, in the files' dtype.
    """
    first = sources[0]
    if cut is Cut.WHOLE:
        return first[:]
    if cut is Cut.COLUMNS:
        return first[:, rank * shape[1] : (rank + 1) * shape[1]]
    if cut is Cut.HEADS:
        return _padded(first, 1, rank * shape[1], shape[1])
    if cut is Cut.VOCAB:
        return _padded(first, 0, rank * shape[0], shape[0])
    if cut is Cut.GATE_UP:
        half = shape[0] // 2
        return torch.cat([source[rank * half : (rank + 1) * half] for source in sources])
    groups = (arch.num_query_groups + arch.padding_groups(size)) // size
    parts = []
    for source, heads in zip(sources, _heads_per_group(arch), strict=True):
        rows = groups * heads * arch.head_dim
        parts.append(_padded(source, 0, rank * rows, rows).unflatten(0, (groups, heads * arch.head_dim)))
    return torch.cat(parts, 1).flatten(0, 1)


def join(cut: Cut, shards: Sequence[torch.Tensor], arch: Architecture) -> list[torch.Tensor]:
    """Return a parameter's HF tensors.

    Args:
        cut: how the parameter is cut.
        shards: every tensor-parallel rank's shard in rank order; for WHOLE any one.
        arch: head geometry and vocabulary, both without the padding that is stripped.
    """
    if cut is Cut.WHOLE:
        return [shards[0]]
    if cut is Cut.COLUMNS:
        return [torch.cat(list(shards), 1)]
    if cut is Cut.HEADS:
        return [torch.cat(list(shards), 1)[:, : arch.num_attention_heads * arch.head_dim].contiguous()]
    if cut is Cut.VOCAB:
        return [torch.cat(list(shards))[: arch.vocab_size]]
    if cut is Cut.GATE_UP:
        return [torch.cat(parts) for parts in zip(*(shard.chunk(2) for shard in shards), strict=True)]
    widths = [heads * arch.head_dim for heads in _heads_per_group(arch)]
    groups = arch.num_query_groups + arch.padding_groups(len(shards))
    grouped = torch.cat(list(shards)).unflatten(0, (groups, sum(widths)))[: arch.num_query_groups]
    return [part.flatten(0, 1) for part in grouped.split(widths, 1)]


def hf_shape(cut: Cut, shape: Shape, size: int, arch: Architecture) -> list[Shape]:
    """Return the HF tensors' shapes that a shard of this shape stands for, without padding."""
    rest = shape[1:]
    if cut is Cut.WHOLE:
        return [shape]
    if cut is Cut.COLUMNS:
        return [(shape[0], shape[1] * size)]
    if cut is Cut.HEADS:
        padding = arch.padding_groups(size) * arch.heads_per_group * arch.head_dim
        return [(shape[0], shape[1] * size - padding)]
    if cut is Cut.VOCAB:
        return [(arch.vocab_size, *rest)]
    if cut is Cut.GATE_UP:
        return [(shape[0] // 2 * size, *rest)] * 2
    return [(arch.num_query_groups * heads * arch.head_dim, *rest) for heads in _heads_per_group(arch)]


def _heads_per_group(arch: Architecture) -> tuple[int, int, int]:
    return arch.heads_per_group, 1, 1


def _padded(source: Slice, axis: int, begin: int, length: int) -> torch.Tensor:
    """Read `length` rows (axis 0) or columns (1) from `begin`; zeros where the stored tensor has ended."""
    whole = source.get_shape()[axis]
    start, end = min(begin, whole), min(begin + length, whole)
    own = source[start:end] if axis == 0 else source[:, start:end]
    if end - start == length:
        return own
    missing = list(own.shape)
    missing[axis] = length - (end - start)
    return torch.cat([own, own.new_zeros(missing)], axis)
