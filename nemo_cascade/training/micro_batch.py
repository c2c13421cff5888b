"""One packed micro-batch on the device, as every pipeline stage needs it.

Shapes: T tokens of the pack, padding included; C of them that this rank holds (T / CP); D documents, the padding behind
them counted. What the losses see is this rank's share, in the order of `models.megatron.context`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_cascade.data.layout import dummy_beside, lay_out
from nemo_cascade.models.axes import Axis
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.build import packed_sequences
from nemo_cascade.models.megatron.context import context_share
from nemo_cascade.training.precision import Padding
from nemo_cascade.types import Int64, PackedBatch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Device tensors of a PackedBatch.

    Attributes:
        input_ids: [1, C].
        position_ids: [1, C].
        labels: [C].
        loss_mask: [C] float32, 0 on padding.
        predicted: [C] float32, 1 on the tokens that trained labels stand for.
        document: [C] int64, the document of each token.
        cu_seqlens: [D + 1] int32, of the whole pack; padding at its end is a document of its own.
        trained_documents: int64, the documents in which some label is trained.
        extras: further [C] float32, 0 on padding.
        packed: Megatron's PackedSeqParams, with what routers are told.
        place: int64, where each token of the pack as it came lies in all ranks' shares, one after the other.
        context: the context-parallel axis.
        number: its place among the micro-batches of this rank's pass, from 0.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    loss_mask: Tensor
    predicted: Tensor
    document: Tensor
    cu_seqlens: Tensor
    trained_documents: Tensor
    extras: dict[str, Tensor]
    packed: Any
    place: Tensor
    context: Axis
    number: int

    def whole(self, values_C: Tensor) -> Tensor:
        """Return this rank's and the other context ranks' values in the order of the pack as it came, unpadded."""
        if self.context.size > 1:
            parts = [torch.empty_like(values_C) for _ in range(self.context.size)]
            dist.all_gather(parts, values_C.contiguous(), group=self.context.group)
            values_C = torch.cat(parts)
        return values_C[self.place]

    def per_document(self, values_C: Tensor) -> Tensor:
        """Return [D, ...]: the sum of each document's values, also of those that other context ranks hold.

        The gradient is that of a loss which every context rank computes in full, and which is counted once.
        """
        sums_D = values_C.new_zeros((self.cu_seqlens.numel() - 1, *values_C.shape[1:]))
        return self.over_context(sums_D.index_add(0, self.document, values_C))

    def over_context(self, sums: Tensor) -> Tensor:
        """Add up over the ranks that hold other tokens of the same documents."""
        summed: Tensor = _SumOverContext.apply(sums, self.context)
        return summed


def on_device(batches: Sequence[PackedBatch], padding: Padding, context: Axis) -> Iterator[MicroBatch]:
    """Yield this rank's shares of micro-batches as device tensors, each one copied only when it is asked for.

    Args:
        batches: this rank's, in order.
        padding: as the layout needs it.
        context: the context-parallel axis.
    """
    length = longest(batches, padding) if padding.group > 1 else 0
    for number, batch in enumerate(batches):
        yield _move(batch, _boundaries(batch, padding, length), context, number)


def longest(batches: Sequence[PackedBatch], padding: Padding) -> int:
    """Return the tokens of the longest micro-batch, padding included."""
    return max(int(_boundaries(batch, padding, 0)[-1]) for batch in batches)


def filled_up(batches: Sequence[PackedBatch], group: int) -> list[PackedBatch]:
    """Return micro-batches with as many untrained ones behind them as make whole groups."""
    missing = -len(batches) % group
    return [*batches, *(lay_out([dummy_beside(batches[0])]) for _ in range(missing))]


def _boundaries(batch: PackedBatch, padding: Padding, length: int) -> Int64:
    """Return [D + 1], where documents begin and end in the padded pack of at least `length` tokens."""
    lengths = [_round_up(n, padding.document) for n in np.diff(batch.cu_seqlens).tolist()]
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    total = max(_round_up(int(boundaries[-1]), padding.pack), length)
    return np.append(boundaries, total) if total > boundaries[-1] else boundaries


def _round_up(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def _move(batch: PackedBatch, boundaries: Int64, context: Axis, number: int) -> MicroBatch:
    total = int(boundaries[-1])
    shift = boundaries[: len(batch.cu_seqlens) - 1] - batch.cu_seqlens[:-1]
    place_T = np.arange(batch.num_tokens) + np.repeat(shift, np.diff(batch.cu_seqlens))
    shares = [context_share(boundaries.tolist(), rank, context.size) for rank in range(context.size)]
    share_C, order_T = shares[context.rank], np.argsort(np.concatenate(shares))

    def spread(values: np.ndarray[Any, Any], fill: int = 0) -> np.ndarray[Any, Any]:
        padded = np.full((total, *values.shape[1:]), fill, values.dtype)
        padded[place_T] = values
        return padded

    def move(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(dtype).to(backend.device(), non_blocking=True)

    trained_T = spread(batch.loss_mask) > 0
    document_T = np.repeat(np.arange(len(boundaries) - 1), np.diff(boundaries))
    borrowed_D = np.zeros(len(boundaries) - 1, np.int64)
    if batch.borrowed is not None:
        borrowed_D[: len(batch.borrowed)] = batch.borrowed
    positions_T = np.arange(total) - boundaries[document_T] + borrowed_D[document_T]
    real_document_T = np.full(total, -1)
    real_document_T[place_T] = document_T[place_T]
    routed = None if batch.routed_experts is None else move(spread(batch.routed_experts, -1)[share_C], torch.int16)
    return MicroBatch(
        input_ids=move(spread(batch.input_ids)[share_C], torch.int64)[None],
        position_ids=move(positions_T[share_C], torch.int64)[None],
        labels=move(spread(batch.labels)[share_C], torch.int64),
        loss_mask=move(spread(batch.loss_mask)[share_C], torch.float32),
        predicted=move(np.roll(trained_T, 1)[share_C], torch.float32),
        document=move(document_T[share_C], torch.int64),
        cu_seqlens=move(boundaries, torch.int32),
        trained_documents=move(np.unique(document_T[trained_T]), torch.int64),
        extras={name: move(spread(values)[share_C], torch.float32) for name, values in batch.extras.items()},
        packed=packed_sequences(boundaries.astype(np.int32), real_document_T[share_C], routed, borrowed_D),
        place=move(order_T[place_T], torch.int64),
        context=context,
        number=number,
    )


class _SumOverContext(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, sums: Tensor, context: Axis) -> Tensor:
        """Return the sum over ranks."""
        summed = sums.clone()
        if context.size > 1:
            dist.all_reduce(summed, group=context.group)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient on: every rank has all of it, and its own tokens take it up."""
        return gradient, None
