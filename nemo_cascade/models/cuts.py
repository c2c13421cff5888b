"""Cuts: a rank's shard out of HF tensors, and HF tensors out of all ranks' shards.

The two are the inverse of one another, bit for bit. Reading takes only the rows that the rank owns. A cut is a small
value with these four members; a family may bring its own. torch is imported where tensors are at hand: whoever reads a
configuration does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from nemo_cascade.models.architecture import Attention

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


class Slice(Protocol):
    """A tensor on disk of which parts can be read (safetensors' PySafeSlice)."""

    def __getitem__(self, index: Any) -> Tensor:
        """Read a part."""

    def get_shape(self) -> list[int]:
        """Return the whole tensor's shape."""


class Cut(Protocol):
    """How a parameter is cut over one axis of the layout, and how HF's tensors lie in it.

    Attributes:
        axis: name of that axis (`tp`, of an expert `etp`); None: every rank holds all of it.
        pads_groups: whether it ends with zero groups where the axis doesn't divide them (`Attention.padding_groups`).
    """

    @property
    def axis(self) -> str | None:
        """Name of the axis."""

    @property
    def pads_groups(self) -> bool:
        """Whether zero groups are added."""

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """Read one rank's shard of a parameter, in the files' dtype.

        Args:
            sources: the parameter's HF tensors.
            shape: the shard's shape.
            rank: this rank's place on the axis.
            size: ranks on the axis.
        """

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """Return a parameter's HF tensors, without padding, given every rank's shard in order (for axis None: one)."""

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """Return the HF tensors' shapes that a shard of this shape stands for, without padding."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Every rank holds all of it."""

    axis: None = None
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        return sources[0][:]

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        return [shards[0]]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [shape]


@dataclass(frozen=True, slots=True)
class Rows:
    """First dimension."""

    axis: str = "tp"
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        return sources[0][rank * shape[0] : (rank + 1) * shape[0]]

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        return [torch.cat(list(shards))]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(shape[0] * size, *shape[1:])]


@dataclass(frozen=True, slots=True)
class Segments:
    """Rows in segments of these heights, each of which is cut, one above the other: Mamba's input projection."""

    heights: tuple[int, ...]
    axis: str = "tp"
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        import torch

        parts = []
        for begin, height in zip(accumulate(self.heights, initial=0), self.heights, strict=False):
            share = height // size
            parts.append(sources[0][begin + rank * share : begin + (rank + 1) * share])
        return torch.cat(parts)

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        split = [shard.split([height // len(shards) for height in self.heights]) for shard in shards]
        return [torch.cat([part for parts in zip(*split, strict=True) for part in parts])]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(shape[0] * size, *shape[1:])]


@dataclass(frozen=True, slots=True)
class Columns:
    """Second dimension."""

    axis: str = "tp"
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        return sources[0][:, rank * shape[1] : (rank + 1) * shape[1]]

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        return [torch.cat(list(shards), 1)]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(shape[0], shape[1] * size)]


@dataclass(frozen=True, slots=True)
class Vocab:
    """Rows, with zero rows at the end: a vocabulary of `rows`."""

    rows: int
    axis: str = "tp"
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        return _padded(sources[0], 0, rank * shape[0], shape[0])

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        return [torch.cat(list(shards))[: self.rows]]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(self.rows, *shape[1:])]


@dataclass(frozen=True, slots=True)
class GateUp:
    """Gate and up projection, each cut in rows, one above the other."""

    axis: str = "tp"
    pads_groups: bool = False

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        import torch

        half = shape[0] // 2
        return torch.cat([source[rank * half : (rank + 1) * half] for source in sources])

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        return [torch.cat(parts) for parts in zip(*(shard.chunk(2) for shard in shards), strict=True)]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(shape[0] // 2 * size, *shape[1:])] * 2


@dataclass(frozen=True, slots=True)
class Qkv:
    """Per key/value group its query heads, its key and its value, one above the other; cut between groups."""

    attention: Attention
    axis: str = "tp"
    pads_groups: bool = True

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        import torch

        groups = (self.attention.groups + self.attention.padding_groups(size)) // size
        parts = []
        for source, width in zip(sources, self._widths(), strict=True):
            rows = groups * width
            parts.append(_padded(source, 0, rank * rows, rows).unflatten(0, (groups, width)))
        return torch.cat(parts, 1).flatten(0, 1)

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        widths = self._widths()
        groups = self.attention.groups + self.attention.padding_groups(len(shards))
        grouped = torch.cat(list(shards)).unflatten(0, (groups, sum(widths)))[: self.attention.groups]
        return [part.flatten(0, 1) for part in grouped.split(widths, 1)]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        return [(self.attention.groups * width, *shape[1:]) for width in self._widths()]

    def _widths(self) -> list[int]:
        """Return a group's rows of queries, of its key and of its value."""
        head = self.attention.head_dim
        return [self.attention.heads_per_group * head, head, head]


@dataclass(frozen=True, slots=True)
class HeadColumns:
    """Second dimension, between groups of heads, padded like `Qkv`: what attention's output goes through."""

    attention: Attention
    axis: str = "tp"
    pads_groups: bool = True

    def take(self, sources: Sequence[Slice], shape: Shape, rank: int, size: int) -> Tensor:
        """See `Cut`."""
        return _padded(sources[0], 1, rank * shape[1], shape[1])

    def join(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """See `Cut`."""
        import torch

        own = self.attention.heads * self.attention.head_dim
        return [torch.cat(list(shards), 1)[:, :own].contiguous()]

    def hf_shape(self, shape: Shape, size: int) -> list[Shape]:
        """See `Cut`."""
        padding = self.attention.padding_groups(size) * self.attention.heads_per_group * self.attention.head_dim
        return [(shape[0], shape[1] * size - padding)]


def _padded(source: Slice, dimension: int, begin: int, length: int) -> Tensor:
    """Read `length` rows (dimension 0) or columns (1) from `begin`; zeros where the stored tensor has ended."""
    import torch

    whole = source.get_shape()[dimension]
    start, end = min(begin, whole), min(begin + length, whole)
    own = source[start:end] if dimension == 0 else source[:, start:end]
    if end - start == length:
        return own
    missing = list(own.shape)
    missing[dimension] = length - (end - start)
    return torch.cat([own, own.new_zeros(missing)], dimension)
