"""What a loss sum is divided by: counted from the whole batch, before any rank sees only its share."""

from typing import Literal

import numpy as np

from nemo_cascade.types import PackedBatch

Aggregation = Literal["token", "sequence", "pair", "rating"]

CONTINUED = "continued"
"""An extra, 1 on the tokens of a document that goes on with a response which another document is counted for."""
RATING = "rating_"
"""Begins the name of an extra that holds one attribute's rating where a document's score is read; NaN: not rated."""


def count_units(batch: PackedBatch, aggregation: Aggregation = "token") -> int:
    """Count what one micro-batch adds to the normaliser of the global batch.

    Tokens (or responses) that an importance correction masks stay counted: masking lowers their weight to 0, it
    doesn't raise the weight of the others.

    Args:
        batch: the whole micro-batch, not a context-parallel share of it.
        aggregation: `token` counts trained tokens; `sequence` counts documents with at least one trained token, but
            for those that continue a response (`CONTINUED`); `pair` counts two documents as one; `rating` counts the
            ratings of documents.
    """
    trained_T = batch.loss_mask > 0
    if aggregation == "rating":
        ratings = (values for name, values in batch.extras.items() if name.startswith(RATING))
        return sum(int(np.count_nonzero(~np.isnan(values[trained_T]))) for values in ratings)
    if aggregation == "token":
        return int(trained_T.sum())
    if aggregation == "sequence" and CONTINUED in batch.extras:
        trained_T = trained_T & (batch.extras[CONTINUED] == 0)
    before_T = np.concatenate([[0], np.cumsum(trained_T)])
    documents = int(np.count_nonzero(np.diff(before_T[batch.cu_seqlens])))
    return documents // 2 if aggregation == "pair" else documents
