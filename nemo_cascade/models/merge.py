"""Merge models by weights, tensor by tensor. Of models w_1 .. w_n, a base b and a ratio a:

    linear           (1 - a) w_1 + a w_2                                                       arXiv 2508.14444
    slerp            (sin((1 - a) t) w_1 + sin(a t) w_2) / sin t, t the angle between the two
    task_arithmetic  b + a sum_i (w_i - b)                                                     arXiv 2212.04089
    ties             b + a mean of the (w_i - b) that are among their tensor's largest and have the sign of the sum of
                     those, at each place                                                      arXiv 2306.01708

Tensors are read in slices and the result is written shard by shard: what is held at once is two copies of a shard, or
of the largest tensor, and slices of the inputs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_folder import SHARD_BYTES, HfTensors, write_hf_folder

_ROWS_BYTES = 8 * 2**20  # of float32; ties holds some ten slices at once
_LEAST_SHARD_BYTES = 128 * 2**20
_SHARDS = 32
# Below this angle the arc is a line, to float32.
_LEAST_ANGLE = 1e-4


@dataclass(frozen=True, slots=True)
class Blend:
    """How weights are merged.

    Attributes:
        ratio: a.
        method: which formula.
        density: ties: share of each tensor's differences that is kept.
    """

    ratio: float
    method: Literal["linear", "slerp", "task_arithmetic", "ties"] = "linear"
    density: float = 1.0


def merge_models(models: Sequence[Path], blend: Blend, target: Path, base: Path | None = None) -> None:
    """Write the merge of HF folders as a new one, atomically; config, tokenizer and dtypes are the last one's.

    It is computed in float32 (float64 where a tensor is).

    Args:
        models: HF folders of one architecture; two for linear and slerp.
        blend: how.
        target: the new folder.
        base: HF folder; for task_arithmetic and ties.

    Raises:
        ModelError: they have different tensors or shapes.
    """
    files = [HfTensors(folder) for folder in models]
    root = None if base is None else HfTensors(base)
    last = files[-1]
    for other in [*files[:-1], *([root] if root is not None else [])]:
        _refuse_other_shapes(other, last)
    size = sum(math.prod(stored.shape) * stored.dtype.itemsize for stored in last.stored.values())
    shard = min(SHARD_BYTES, max(_LEAST_SHARD_BYTES, size // _SHARDS))
    write_hf_folder(target, _merged(files, root, blend), last.folder, shard_bytes=shard)


def _refuse_other_shapes(one: HfTensors, other: HfTensors) -> None:
    different = sorted(
        name
        for name in one.stored.keys() | other.stored.keys()
        if name not in one.stored or name not in other.stored or one.stored[name].shape != other.stored[name].shape
    )
    if different:
        raise ModelError(
            f"models with different tensors can't be merged: {one.folder} and {other.folder}",
            value=f"{len(different)}, e.g. {', '.join(different[:5])}",
            limit="the same names and shapes",
            mend="merge models of one architecture",
        )


@dataclass(frozen=True)
class _Rows:
    """One tensor of all models, in slices of rows; a scalar is one row."""

    files: Sequence[HfTensors]
    name: str

    def __iter__(self) -> Iterator[tuple[slice, list[Tensor]]]:
        stored = [files.stored[self.name] for files in self.files]
        shape, wide = stored[0].shape, torch.float32
        for one in stored:
            wide = torch.promote_types(wide, one.dtype)
        if not shape:
            yield slice(None), [files.part(self.name)[...].to(wide) for files in self.files]
            return
        row_bytes = max(1, math.prod(shape[1:]) * wide.itemsize)
        step = max(1, _ROWS_BYTES // row_bytes)
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            # float32 is its own copy already; a view would keep its file mapped.
            yield rows, [files.part(self.name)[rows].to(wide, copy=True) for files in self.files]
            for files in self.files:
                files.let_go()


def _merged(files: Sequence[HfTensors], base: HfTensors | None, blend: Blend) -> Iterator[tuple[str, Tensor]]:
    every = [*files, *([base] if base is not None else [])]
    for name, stored in files[-1].stored.items():
        rows = _Rows(every, name)
        mix, merged = _mix(rows, blend), torch.empty(stored.shape, dtype=stored.dtype)
        for place, values in rows:
            if stored.shape:
                merged[place] = mix(values).to(stored.dtype)
            else:
                merged.copy_(mix(values))
        yield name, merged


def _mix(rows: _Rows, blend: Blend) -> Callable[[list[Tensor]], Tensor]:
    """Return what makes one slice of the merge out of the models' (and last the base's); it may look at all first."""
    a = blend.ratio
    if blend.method == "linear":
        return lambda values: torch.lerp(values[0], values[1], a)
    if blend.method == "slerp":
        one, other = _arc(rows, a)
        return lambda values: one * values[0] + other * values[1]
    if blend.method == "task_arithmetic":
        return lambda values: values[-1] + a * sum((v - values[-1] for v in values[1:-1]), values[0] - values[-1])
    least = [_kth_largest(rows, i, blend.density) for i in range(len(rows.files) - 1)]
    return lambda values: values[-1] + a * _elected([v - values[-1] for v in values[:-1]], least)


def _arc(rows: _Rows, a: float) -> tuple[float, float]:
    """Return the weights of both ends at share `a` of the arc between them."""
    dot = left = right = 0.0
    for _, (one, other) in rows:
        dot += float((one.double() * other.double()).sum())
        left += float(one.double().square().sum())
        right += float(other.double().square().sum())
    if left == 0 or right == 0:
        return 1 - a, a
    angle = math.acos(max(-1.0, min(1.0, dot / math.sqrt(left * right))))
    if angle < _LEAST_ANGLE or math.pi - angle < _LEAST_ANGLE:
        return 1 - a, a
    return math.sin((1 - a) * angle) / math.sin(angle), math.sin(a * angle) / math.sin(angle)


def _elected(differences: list[Tensor], least: list[float]) -> Tensor:
    """Return the mean of the large differences whose sign prevails, 0 where there are none."""
    kept = torch.stack([torch.where(d.abs() >= bound, d, 0.0) for d, bound in zip(differences, least, strict=True)])
    agrees = (kept.sign() == kept.sum(0).sign()) & (kept != 0)
    return torch.where(agrees, kept, 0.0).sum(0) / agrees.sum(0).clamp(min=1)


def _kth_largest(rows: _Rows, model: int, density: float) -> float:
    """Return the k-th largest |difference from the base| of a tensor, k = density x its size: what is kept from.

    Floats above 0 order as their bits do, so two histograms find it, of the upper and of the lower half of the bits,
    without a sorted copy.
    """

    def bits() -> Iterator[Tensor]:
        for _, values in rows:
            yield (values[model] - values[-1]).abs().float().flatten().view(torch.int32)

    total = sum(part.numel() for part in bits())
    left = max(1, round(density * total))
    upper = _bin_from_above(((part >> 16) for part in bits()), left)
    left -= upper[1]
    lower = _bin_from_above((part[part >> 16 == upper[0]] & 0xFFFF for part in bits()), left)
    found = torch.tensor(upper[0] << 16 | lower[0], dtype=torch.int32)
    return float(found.view(torch.float32))


def _bin_from_above(values: Iterator[Tensor], left: int) -> tuple[int, int]:
    """Return the value (of 16 bits) that is the `left`-th from above, and how many lie above it."""
    counts = torch.zeros(2**16, dtype=torch.int64)
    for part in values:
        counts += torch.bincount(part.long(), minlength=2**16)
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, left))
    return 2**16 - 1 - place, int(from_above[place - 1]) if place else 0
