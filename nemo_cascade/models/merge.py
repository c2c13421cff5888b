"""Merge two models by weights: (1 - share) * one + share * other, tensor by tensor (arXiv 2508.14444).

Both are read in slices and the result is written shard by shard, so that neither model is ever whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_folder import HfTensors, write_hf_folder

_ROWS_BYTES = 256 * 2**20


def merge_models(one: Path, other: Path, share: float, target: Path) -> None:
    """Write the weighted mean of two HF folders as a new one, atomically; config and tokenizer are `other`'s.

    Means are taken in float32 (float64 for float64 tensors) and stored in the dtype that `other` has.

    Args:
        one: HF folder.
        other: HF folder of a model of the same architecture.
        share: weight of `other`, 0 to 1.
        target: the new folder.

    Raises:
        ModelError: the two have different tensors or shapes.
    """
    left, right = HfTensors(one), HfTensors(other)
    different = sorted(
        name
        for name in left.stored.keys() | right.stored.keys()
        if name not in left.stored or name not in right.stored or left.stored[name].shape != right.stored[name].shape
    )
    if different:
        raise ModelError(
            f"models with different tensors can't be merged: {one} and {other}",
            value=f"{len(different)}, e.g. {', '.join(different[:5])}",
            limit="the same names and shapes",
        )
    write_hf_folder(target, _means(left, right, share), other)


def _means(left: HfTensors, right: HfTensors, share: float) -> Iterator[tuple[str, torch.Tensor]]:
    for name, stored in right.stored.items():
        wide = torch.promote_types(torch.promote_types(left.stored[name].dtype, stored.dtype), torch.float32)
        a, b = left.part(name), right.part(name)
        if not stored.shape:
            yield name, torch.lerp(a[...].to(wide), b[...].to(wide), share).to(stored.dtype)
            continue
        merged = torch.empty(stored.shape, dtype=stored.dtype)
        row_bytes = max(1, merged.nbytes // max(1, stored.shape[0]))
        step = max(1, _ROWS_BYTES // row_bytes)
        for start in range(0, stored.shape[0], step):
            rows = slice(start, start + step)
            merged[rows] = torch.lerp(a[rows].to(wide), b[rows].to(wide), share).to(stored.dtype)
        yield name, merged
