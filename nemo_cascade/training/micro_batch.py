"""One packed micro-batch on the device, as every pipeline stage needs it. T: tokens, padding included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.build import packed_sequences
from nemo_cascade.types import PackedBatch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Device tensors of a PackedBatch.

    Attributes:
        input_ids: [1, T].
        position_ids: [1, T].
        labels: [T].
        loss_mask: [T] float32, 0 on padding.
        cu_seqlens: [documents + 1] int32; padding is a document of its own.
        extras: further [T] float32, 0 on padding.
        packed: Megatron's PackedSeqParams.
        num_tokens: T without padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    loss_mask: Tensor
    cu_seqlens: Tensor
    extras: dict[str, Tensor]
    packed: Any
    num_tokens: int


def on_device(batches: Sequence[PackedBatch], multiple: int) -> Iterator[MicroBatch]:
    """Yield micro-batches as device tensors, each one copied only when it is asked for.

    Args:
        batches: this rank's, in order.
        multiple: T is padded to a multiple of this.
    """
    for batch in batches:
        yield _move(batch, multiple)


def _move(batch: PackedBatch, multiple: int) -> MicroBatch:
    missing = -batch.num_tokens % multiple
    boundaries = batch.cu_seqlens.astype(np.int32)
    if missing:
        boundaries = np.append(boundaries, np.int32(batch.num_tokens + missing))

    def move(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
        host = torch.from_numpy(np.pad(values, (0, missing))).to(dtype)
        return host.to(backend.device(), non_blocking=True)

    return MicroBatch(
        input_ids=move(batch.input_ids, torch.int64)[None],
        position_ids=move(batch.position_ids, torch.int64)[None],
        labels=move(batch.labels, torch.int64),
        loss_mask=move(batch.loss_mask, torch.float32),
        cu_seqlens=torch.from_numpy(boundaries).to(backend.device()),
        extras={name: move(values, torch.float32) for name, values in batch.extras.items()},
        packed=packed_sequences(boundaries),
        num_tokens=batch.num_tokens,
    )
