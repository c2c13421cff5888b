"""Weights between HF folders and Megatron models, streamed, for every layout."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.end_of_turn import eos_token_id, padding_id, writes_chats
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.axes import Axes, Axis
from nemo_cascade.models.cuts import Shape
from nemo_cascade.models.hf_config import changed_fields
from nemo_cascade.models.hf_folder import HfTensors, write_hf_folder
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.rules import OUTPUT_LAYER, Rule, rules_by_name


@dataclass(frozen=True, slots=True)
class Mapped:
    """One parameter of this rank: its name in Megatron (layers counted over the whole model), its rule, itself."""

    name: str
    rule: Rule
    parameter: torch.Tensor

    @property
    def shape(self) -> Shape:
        """Shape of this rank's shard."""
        return tuple(self.parameter.shape)


def load_weights(
    chunks: Sequence[Any], arch: Architecture, folder: Path, axes: Axes, *, head_seed: int | None = None
) -> None:
    """Fill this rank's parameters from an HF folder, reading only its own rows. Not collective.

    Args:
        chunks: of `build_model`, wrapped or not; before an optimizer copies their parameters.
        arch: their architecture.
        folder: HF folder; tensors are cast to the parameters' dtype.
        axes: this rank's place.
        head_seed: draws a score head that the folder lacks, from N(0, 1/(hidden + 1)) (arXiv 2009.01325); None: the
            folder must have it.

    Raises:
        ModelError: listing every missing, surplus or wrongly shaped tensor of the folder, or of the model.
    """
    files = HfTensors(folder)
    head = rules_by_name(arch)[OUTPUT_LAYER].hf
    fresh_head = arch.scores and head_seed is not None and not head.keys() <= files.stored.keys()
    files.check(arch, fresh_head=fresh_head)
    mapped = mapped_parameters(chunks, arch, axes)
    if fresh_head:
        for own in (own for own in mapped if own.name == OUTPUT_LAYER):
            # None but on the last pipeline stage; the same on all its tensor-parallel ranks.
            generator = torch.Generator().manual_seed(head_seed or 0)
            drawn = torch.randn(own.parameter.shape, generator=generator) / (arch.hidden_size + 1) ** 0.5
            own.parameter.data.copy_(drawn)
        mapped = [own for own in mapped if own.name != OUTPUT_LAYER]
    problems = [
        f"{own.name} {list(own.shape)} stands for {shape}, but {name} is {files.stored[name].shape}"
        for own in mapped
        for name, shape in zip(own.rule.hf, own.rule.cut.hf_shape(own.shape, _size(own, axes)), strict=True)
        if shape != files.stored[name].shape
    ]
    if problems:
        raise ModelError("the model was built for another layout or architecture: " + "; ".join(problems))
    with torch.no_grad():
        for own in mapped:
            parts, axis = [files.part(name) for name in own.rule.hf], own.rule.cut.axis
            rank = 0 if axis is None else axes[axis].rank
            own.parameter.copy_(own.rule.cut.take(parts, own.shape, rank, _size(own, axes)))


def export_weights(chunks: Sequence[Any], arch: Architecture, axes: Axes) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (HF name, whole tensor) on global rank 0, one at a time, in HF order; nothing on the other ranks.

    Collective: every rank must exhaust it. Only one replica works, of experts another one than of the rest. A
    parameter's shards meet along the axis that its cut names; experts go on to the first of the ranks that share them
    out; the pipeline stages, which own different parameters, hand theirs to the first in turn. At most one whole tensor
    exists at a time.

    Args:
        chunks: of `build_model`, wrapped or not.
        arch: their architecture.
        axes: this rank's place.

    Yields:
        Tensors on this rank's device in the model's dtype, without padding, a tied tensor once. They may
        share memory with the model: copy before training goes on.
    """
    mapped = {
        own.name: own
        for own in mapped_parameters(chunks, arch, axes)
        if not (arch.tied and own.name == OUTPUT_LAYER)  # the same tensor as the embedding
    }
    stages, count = axes["pp"], 0 if arch.experts is None else arch.experts.count
    for owner, items in enumerate(_owned(mapped, arch, axes)):
        if stages.rank not in (0, owner):
            continue
        for name, dtype in items:
            rule = rules_by_name(arch)[name]
            wholes: list[torch.Tensor] | None = None
            if stages.rank == owner:
                wholes = _whole_on_stage(rule, mapped.get(name), dtype, count, axes)
            if not axes["stage"].first:
                continue
            if wholes is None:
                wholes = _empty(rule, dtype)
            if owner != 0:
                wholes = _hand_to_first(wholes, owner, stages)
            if stages.first:
                yield from zip(rule.hf, wholes, strict=True)


def save_hf(
    chunks: Sequence[Any],
    arch: Architecture,
    axes: Axes,
    source: Path,
    target: Path,
) -> None:
    """Write the model as an HF folder, atomically. Collective; rank 0 writes, the others wait for it.

    Args:
        chunks: of `build_model`, wrapped or not.
        arch: their architecture.
        axes: this rank's place.
        source: HF folder whose config.json and tokenizer files are taken over, and whose tensors' dtypes are kept
            unless that would lose bits (a fp32 model out of a bf16 folder stays fp32).
        target: the new folder.
    """
    stored = HfTensors(source).stored if dist.get_rank() == 0 else {}

    def cast() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in export_weights(chunks, arch, axes):
            own = stored[name].dtype if name in stored else tensor.dtype  # a score head is new to the source
            yield name, tensor.to(torch.promote_types(own, tensor.dtype))

    if dist.get_rank() == 0:
        write_hf_folder(target, cast(), source, config_changes=_config_changes(arch, source))
    else:
        for _ in export_weights(chunks, arch, axes):
            pass
    dist.barrier()


def _config_changes(arch: Architecture, source: Path) -> dict[str, Any]:
    """Return what config.json has to say differently: of a score head, and how replies end that the model learnt."""
    changed = changed_fields(arch, read_json_object(source / "config.json"))
    if not writes_chats(source):
        return changed
    if not arch.scores:
        return {**changed, "eos_token_id": eos_token_id(source)}
    padding = padding_id(source)
    return changed if padding is None else {**changed, "pad_token_id": padding}


def mapped_parameters(chunks: Sequence[Any], arch: Architecture, axes: Axes) -> list[Mapped]:
    """Return this rank's parameters, and the buffers that are stored like them, with their rules.

    Raises:
        ModelError: parameters that no rule of the architecture knows.
    """
    rules = rules_by_name(arch)
    first_expert = 0 if arch.experts is None else arch.experts.count // axes["ep"].size * axes["ep"].rank
    result, unknown = [], []
    for chunk in chunks:
        bare = chunk
        while not hasattr(bare, "decoder"):
            bare = bare.module  # DDP and Float16Module
        numbers = [layer.layer_number - 1 for layer in bare.decoder.layers]
        parameters = dict(bare.named_parameters())
        for name, tensor in (*parameters.items(), *bare.named_buffers()):
            whole_name = _globalise(name, numbers, first_expert)
            if whole_name in rules:
                result.append(Mapped(whole_name, rules[whole_name], tensor.detach()))
            elif name in parameters:
                unknown.append(name)
    if unknown:
        raise ModelError(f"no rule of {arch.family} knows these parameters", value=", ".join(unknown))
    return result


def _globalise(name: str, numbers: list[int], first_expert: int) -> str:
    """Replace the chunk's layer index by the model's, and the rank's expert index by the layer's."""
    head, _, tail = name.partition("decoder.layers.")
    if not tail:
        return name
    index, _, rest = tail.partition(".")
    own_expert = re.search(r"(?<=\.local_experts\.)\d+|(?<=\.experts\.linear_fc[12]\.weight)\d+", rest)
    if own_expert is not None:
        number = int(own_expert[0]) + first_expert
        rest = f"{rest[: own_expert.start()]}{number}{rest[own_expert.end() :]}"
    return f"{head}decoder.layers.{numbers[int(index)]}.{rest}"


def _size(own: Mapped, axes: Axes) -> int:
    """Return over how many ranks a parameter is cut."""
    return 1 if own.rule.cut.axis is None else axes[own.rule.cut.axis].size


def _owned(mapped: Mapping[str, Mapped], arch: Architecture, axes: Axes) -> list[list[tuple[str, torch.dtype]]]:
    """Return name and dtype of every pipeline stage's parameters in HF's order, known to all ranks."""
    found = {name: own.parameter.dtype for name, own in mapped.items()}
    for axis in (axes["ep"], axes["pp"]):
        plans: list[Any] = [found]
        if axis.size > 1:
            plans = [None] * axis.size
            dist.all_gather_object(plans, found, group=axis.group)
        if axis is axes["ep"]:
            found = {name: dtype for plan in plans for name, dtype in plan.items()}
    order = {name: place for place, name in enumerate(rules_by_name(arch))}
    return [sorted(plan.items(), key=lambda item: order[item[0]]) for plan in plans]


def _whole_on_stage(
    rule: Rule, own: Mapped | None, dtype: torch.dtype, count: int, axes: Axes
) -> list[torch.Tensor] | None:
    """Return the HF tensors of a parameter on the first rank of the stage that owns it; elsewhere nothing of use.

    Args:
        rule: of the parameter.
        own: this rank's shard of it, where it has one.
        dtype: of the parameter.
        count: experts of a layer.
        axes: this rank's place.
    """
    replicas = axes["dp_cp" if rule.expert is None else "edp"]
    if not replicas.first:
        return None
    shards = [] if own is None else _gather_shards(own, axes)
    cut_first = rule.cut.axis is None or axes[rule.cut.axis].first
    wholes = rule.cut.join(shards) if shards and cut_first else None
    if rule.expert is None or axes["ep"].size == 1:
        return wholes
    if not axes["etp"].first:
        return None
    experts = axes["ep"]
    holder = rule.expert // (count // experts.size)
    if holder != 0 and experts.rank in (0, holder):
        wholes = _hand_to_first(_empty(rule, dtype) if wholes is None else wholes, holder, experts)
    return wholes if experts.first else None


def _empty(rule: Rule, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.empty(shape, dtype=dtype, device=backend.device()) for shape in rule.hf.values()]


def _gather_shards(own: Mapped, axes: Axes) -> list[torch.Tensor]:
    """Return all shards along the axis of the cut, on its first rank; elsewhere nothing that is of use."""
    if own.rule.cut.axis is None or axes[own.rule.cut.axis].size == 1:
        return [own.parameter]
    axis, shard = axes[own.rule.cut.axis], own.parameter.contiguous()
    gathered = [torch.empty_like(shard) for _ in range(axis.size)] if axis.first else None
    dist.gather(shard, gathered, dst=axis.ranks[0], group=axis.group)
    return gathered or []


def _hand_to_first(wholes: list[torch.Tensor], owner: int, axis: Axis) -> list[torch.Tensor]:
    """Send from the owning rank of an axis to its first; the other ranks have no part in it."""
    for whole in wholes:
        if axis.rank == owner:
            dist.send(whole.contiguous(), dst=axis.ranks[0], group=axis.group)
        elif axis.first:
            dist.recv(whole, src=axis.ranks[owner], group=axis.group)
    return wholes
