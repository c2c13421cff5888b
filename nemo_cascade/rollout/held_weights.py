"""What an engine's workers hold, against what the trainer sent: every weight, in the engine's own memory, bit by bit.

vLLM stores several HF tensors in one parameter and cuts them over its tensor-parallel workers. The layout is written
down here once more, by HF's geometry alone and not by asking vLLM's loader, which is what is to be proven. Each worker
sums what it holds; the sums of disjoint slices add up to the whole tensor's checksum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nemo_cascade.errors import WeightSyncError
from nemo_cascade.models.architecture import Architecture, Attention, Dense, Experts, Mamba
from nemo_cascade.models.cuts import Shape
from nemo_cascade.models.families import family_named
from nemo_cascade.models.rules import hf_shapes

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]

_COLUMN_CUT = ("o_proj.weight", "down_proj.weight", "out_proj.weight")
_ROW_CUT = ("up_proj.weight", ".mixer.A_log", ".mixer.D", ".mixer.dt_bias", ".mixer.norm.weight")
_VOCABULARY_CUT = ("embed_tokens.weight", "embeddings.weight", "lm_head.weight")


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

    found, shapes, family = [], hf_shapes(arch), family_named(arch.family)
    for engine_name, parameter in model.named_parameters():
        name, held = family.hf_name(engine_name), 0
        for hf, part, rows, columns in _parts(name, parameter, arch, shapes, rank, size):
            found.append(HeldSlice(hf, rows, columns, checksum(part, rows[0], columns[0])))
            held += part.numel()
        if held != parameter.numel() and not name.endswith(_VOCABULARY_CUT):  # the vocabulary is padded
            raise WeightSyncError(
                f"the engine's parameter {engine_name} has another layout than is known here",
                value=f"{tuple(parameter.shape)}, of which {held} numbers are known",
                limit=f"{parameter.numel()} for rank {rank} of {size}",
                mend="rollout.weight_sync.verify=off goes without the proof; report the model's architecture",
            )
    return found


def _parts(
    name: str, parameter: torch.Tensor, arch: Architecture, shapes: Mapping[str, Shape], rank: int, size: int
) -> Iterator[tuple[str, torch.Tensor, Span, Span]]:
    """Yield (HF name, part of the parameter, its rows and its columns in the HF tensor)."""
    width = math.prod(parameter.shape[1:])
    stem, last = name.rpartition(".")[0], name.rpartition(".")[2]
    if stem.endswith("qkv_proj"):
        yield from _queries_keys_values(name, parameter, arch, shapes, rank, size)
    elif stem.endswith("gate_up_proj"):
        dense = arch.layers[_layer_number(name)].mlp
        assert isinstance(dense, Dense), "a dense MLP"
        height = dense.width // size
        places = _places(name, "gate_up_proj", ("gate", "up"), (dense.width, dense.width), shapes)
        for index, (hf, above) in enumerate(places):
            part = parameter[index * height : (index + 1) * height]
            yield hf, part, (above + rank * height, above + (rank + 1) * height), (0, width)
    elif last in ("w13_weight", "w2_weight"):
        yield from _stacked_experts(name, parameter, arch, rank, size)
    elif name.endswith((".mixer.in_proj.weight", ".mixer.conv1d.weight", ".mixer.conv1d.bias")):
        yield from _segments(name, parameter, arch, rank, size)
    elif name.endswith(_VOCABULARY_CUT):
        begin = min(rank * parameter.shape[0], arch.vocab_size)
        end = min(begin + parameter.shape[0], arch.vocab_size)
        yield name, parameter[: end - begin], (begin, end), (0, width)
    elif name.endswith(_COLUMN_CUT):
        yield name, parameter, (0, parameter.shape[0]), (rank * width, (rank + 1) * width)
    elif name.endswith(_ROW_CUT):
        height = parameter.shape[0]
        yield name, parameter, (rank * height, (rank + 1) * height), (0, width)
    else:
        yield name, parameter, (0, parameter.shape[0]), (0, width)


def _queries_keys_values(
    name: str, parameter: torch.Tensor, arch: Architecture, shapes: Mapping[str, Shape], rank: int, size: int
) -> Iterator[tuple[str, torch.Tensor, Span, Span]]:
    attention = arch.layers[_layer_number(name)].mixer
    assert isinstance(attention, Attention), "only attention has these"
    heads, groups, dim = attention.heads // size, max(1, attention.groups // size), attention.head_dim
    # Fewer groups than workers: neighbours hold the same one.
    first_group = rank * groups if size <= attention.groups else rank // (size // attention.groups)
    spans = [(rank * heads, heads), (first_group, groups), (first_group, groups)]
    heights = [attention.heads * dim, attention.groups * dim, attention.groups * dim]
    width, begin = math.prod(parameter.shape[1:]), 0
    for (hf, above), (first, count) in zip(_places(name, "qkv_proj", "qkv", heights, shapes), spans, strict=True):
        part = parameter[begin : begin + count * dim]
        begin += count * dim
        yield hf, part, (above + first * dim, above + (first + count) * dim), (0, width)


def _stacked_experts(
    name: str, parameter: torch.Tensor, arch: Architecture, rank: int, size: int
) -> Iterator[tuple[str, torch.Tensor, Span, Span]]:
    """Yield the parts of all experts in one tensor: [E, gate over up, H], or [E, H, F]."""
    experts = arch.layers[_layer_number(name)].mlp
    assert isinstance(experts, Experts), "only experts have these"
    stem, share = name[: name.index(".experts.")], experts.width // size
    rows, columns = (rank * share, (rank + 1) * share), (0, parameter.shape[2])
    names = ("gate", "up") if experts.activation == "swiglu" else ("up",)
    for number, held in enumerate(parameter):
        own = f"{stem}.experts.{number}."
        if name.endswith("w2_weight"):
            yield f"{own}down_proj.weight", held, (0, held.shape[0]), rows
            continue
        for place, which in enumerate(names):
            yield f"{own}{which}_proj.weight", held[place * share : (place + 1) * share], rows, columns


def _segments(
    name: str, parameter: torch.Tensor, arch: Architecture, rank: int, size: int
) -> Iterator[tuple[str, torch.Tensor, Span, Span]]:
    """Yield the parts of a Mamba tensor whose rows are cut segment by segment."""
    mamba = arch.layers[_layer_number(name)].mixer
    assert isinstance(mamba, Mamba), "only a state space has these"
    heights = mamba.segments if "in_proj" in name else mamba.segments[1:4]
    begin = 0
    for above, height in zip(accumulate(heights, initial=0), heights, strict=False):
        share = height // size
        part = parameter[begin : begin + share]
        begin += share
        first = above + rank * share
        yield name, part, (first, first + share), (0, math.prod(parameter.shape[1:]))


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
