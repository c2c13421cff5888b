"""Lay documents end to end into one micro-batch, with labels, mask and extras shifted within each document.

Shapes: n tokens of one document, T tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.types import Float32, Int32, PackedBatch, Trajectory


@dataclass(frozen=True, slots=True)
class Document:
    """One training sample, everything aligned with its tokens.

    Attributes:
        token_ids: [n].
        trained: [n], 1 where the token is predicted for a loss.
        extras: further [n] arrays, the value that belongs to predicting each token.
    """

    token_ids: Int32
    trained: NDArray[np.uint8]
    extras: Mapping[str, Float32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.token_ids)


def sampled_document(trajectory: Trajectory, extras: Mapping[str, Float32], trained: bool = True) -> Document:
    """Make a document of a trajectory: what was sampled is trained, what was given isn't.

    Args:
        trajectory: its tokens are taken as they are.
        extras: values of its tokens, each [n].
        trained: False keeps it in the batch without gradient.
    """
    mask = trajectory.trained
    return Document(trajectory.token_ids, mask if trained else np.zeros_like(mask), extras)


def padded_length(tokens: int, multiple: int) -> int:
    """Round a document's length up to a multiple (context parallelism cuts each document in 2 x CP parts)."""
    return -(-tokens // multiple) * multiple


def lay_out(documents: Sequence[Document], multiple: int = 1) -> PackedBatch:
    """Lay documents end to end. All must have the same extras.

    Args:
        documents: at least one.
        multiple: each document is padded at its end, untrained, to a multiple of this.
    """
    lengths = [padded_length(len(d), multiple) for d in documents]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    total = int(cu_seqlens[-1])
    input_ids, labels = np.zeros(total, np.int64), np.zeros(total, np.int64)
    loss_mask, position_ids = np.zeros(total, np.float32), np.empty(total, np.int64)
    extras = {name: np.zeros(total, np.float32) for name in documents[0].extras}
    for document, begin, length in zip(documents, cu_seqlens[:-1].tolist(), lengths, strict=True):
        assert document.extras.keys() == extras.keys(), "documents with different extras in one micro-batch"
        end = begin + len(document)
        input_ids[begin:end] = document.token_ids
        labels[begin : end - 1] = document.token_ids[1:]
        loss_mask[begin : end - 1] = document.trained[1:]
        position_ids[begin : begin + length] = np.arange(length)
        for name, values in document.extras.items():
            extras[name][begin : end - 1] = values[1:]
    return PackedBatch(input_ids, labels, loss_mask, position_ids, cu_seqlens, extras)


def dummy_document(extras: Sequence[str] = ()) -> Document:
    """Make an untrained document that fills a rank's place where there is no data for it."""
    return Document(np.zeros(2, np.int32), np.zeros(2, np.uint8), {name: np.zeros(2, np.float32) for name in extras})
