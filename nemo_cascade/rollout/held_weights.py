"""What an engine's workers hold, against what the trainer sent: every weight, in the engine's own memory, bit by bit.

vLLM stores several HF tensors in one parameter and cuts them over its tensor-parallel workers. The layout is written
down here once more, by HF's geometry alone and not by asking vLLM's loader, which is what is to be proven. Each worker
sums what it holds; the sums of disjoint slices add up to the whole tensor's checksum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nemo_cascade.errors import WeightSyncError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.cuts import Shape
from nemo_cascade.models.rules import hf_shapes

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]

_COLUMN_CUT = ("o_proj.weight", "down_proj.weight")
_ROW_CUT = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class HeldSlice:
    """A slice of an HF tensor in one worker's memory: its rows and columns there (begin, end) and their checksum."""

    name: str
    rows: Span
    columns: Span
    checksum: int


@dataclass(frozen=True, slots=True)
class SentWeight:
    """A whole HF tensor as the trainer sent it: rows and columns (a vector has one column) and its checksum."""

    rows: int
    columns: int
    checksum: int


def held_slices(model: Any, arch: Architecture, rank: int, size: int) -> list[HeldSlice]:
    """Sum what this worker's model holds.

    Args:
        model: vLLM's model; its parameters are unquantised and in HF's orientation.
        arch: of the HF folder.
        rank: tensor-parallel rank of this worker.
        size: tensor-parallel size.

    Raises:
        WeightSyncError: a parameter has another shape than the layout says.
    """
    from nemo_cascade.rollout.checksums import checksum

    found, shapes = [], hf_shapes(arch)
    for name, parameter in model.named_parameters():
        offset = 0
        for hf, part, rows, columns in _parts(name, parameter, arch, shapes, rank, size):
            found.append(HeldSlice(hf, rows, columns, checksum(part, rows[0], columns[0])))
            offset += part.shape[0]
        if offset != parameter.shape[0] and not name.endswith(_ROW_CUT):  # the vocabulary is padded
            raise WeightSyncError(
                f"the engine's parameter {name} has another layout than is known here",
                value=f"{tuple(parameter.shape)}",
                limit=f"{offset} rows for rank {rank} of {size}",
                mend="rollout.weight_sync.verify=off goes without the proof; report the model's architecture",
            )
    return found


def _parts(
    name: str, parameter: torch.Tensor, arch: Architecture, shapes: Mapping[str, Shape], rank: int, size: int
) -> Iterator[tuple[str, torch.Tensor, Span, Span]]:
    """Yield (HF name, part of the parameter, its rows and its columns in the HF tensor)."""
    width = parameter.shape[1] if parameter.dim() > 1 else 1
    stem = name.rpartition(".")[0]
    if stem.endswith("qkv_proj"):
        attention = arch.layers[_layer_number(name)].mixer
        heads, groups, dim = attention.heads // size, max(1, attention.groups // size), attention.head_dim
        # Fewer groups than workers: neighbours hold the same one.
        first_group = rank * groups if size <= attention.groups else rank // (size // attention.groups)
        spans = [(rank * heads, heads), (first_group, groups), (first_group, groups)]
        heights = [attention.heads * dim, attention.groups * dim, attention.groups * dim]
        begin = 0
        for (hf, above), (first, count) in zip(_places(name, "qkv_proj", "qkv", heights, shapes), spans, strict=True):
            part = parameter[begin : begin + count * dim]
            begin += count * dim
            yield hf, part, (above + first * dim, above + (first + count) * dim), (0, width)
    elif stem.endswith("gate_up_proj"):
        whole = arch.layers[_layer_number(name)].mlp.width
        height = whole // size
        places = _places(name, "gate_up_proj", ("gate", "up"), (whole, whole), shapes)
        for index, (hf, above) in enumerate(places):
            part = parameter[index * height : (index + 1) * height]
            yield hf, part, (above + rank * height, above + (rank + 1) * height), (0, width)
    elif name.endswith(_ROW_CUT):
        begin = min(rank * parameter.shape[0], arch.vocab_size)
        end = min(begin + parameter.shape[0], arch.vocab_size)
        yield name, parameter[: end - begin], (begin, end), (0, width)
    elif name.endswith(_COLUMN_CUT):
        yield name, parameter, (0, parameter.shape[0]), (rank * width, (rank + 1) * width)
    else:
        yield name, parameter, (0, parameter.shape[0]), (0, width)


def _places(
    name: str, stacked: str, letters: Sequence[str], heights: Sequence[int], shapes: Mapping[str, Shape]
) -> list[tuple[str, int]]:
    """Return of each part of a stacked parameter its HF tensor and the row at which it begins there.

    HF has a tensor for each, or stacks them as vLLM does.
    """
    if name in shapes:
        return [(name, above) for above in accumulate(heights[:-1], initial=0)]
    return [(name.replace(stacked, f"{letter}_proj"), 0) for letter in letters]


def _layer_number(name: str) -> int:
    return int(name.split(".layers.")[1].split(".")[0])


def check_held(
    sent: Mapping[str, SentWeight], workers: Sequence[Sequence[HeldSlice]], aliases: Mapping[str, str]
) -> None:
    """Refuse an engine whose workers hold anything but what was sent.

    Args:
        sent: HF name -> what the trainer's export summed to.
        workers: what each worker holds.
        aliases: HF name -> name of the tensor that it is a copy of: the head of a model with tied embeddings.

    Raises:
        WeightSyncError: names the weights that differ, and how.
    """
    slices: dict[str, dict[tuple[Span, Span], set[int]]] = defaultdict(lambda: defaultdict(set))
    for held in workers:
        for piece in held:
            slices[piece.name][piece.rows, piece.columns].add(piece.checksum)
    problems = []
    for name, pieces in slices.items():
        source = sent.get(name) or sent.get(aliases.get(name, ""))
        if source is None:
            problems.append(f"{name}: held but never sent")
        elif any(len(sums) > 1 for sums in pieces.values()):
            problems.append(f"{name}: workers that hold the same slice hold other bits")
        elif sum((r[1] - r[0]) * (c[1] - c[0]) for r, c in pieces) != source.rows * source.columns:
            problems.append(f"{name}: the workers' slices don't make up {source.rows} x {source.columns}")
        elif (total := sum(sums.copy().pop() for sums in pieces.values()) % (1 << 64)) != source.checksum:
            problems.append(f"{name}: checksum {total:016x}, sent {source.checksum:016x}")
    problems += [f"{name}: sent but not held" for name in sent if name not in slices and name not in aliases]
    if problems:
        raise WeightSyncError(
            f"the engine holds other weights than were sent: {len(problems)} of {len(slices)} differ",
            value="; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else ""),
            limit="equal checksums of every weight",
            mend="vLLM's loader of this architecture puts a weight, or a slice of it, elsewhere than it belongs, or a "
            "kernel has repacked it",
        )
