"""Cut a model down: leave out layers, keep some channels of hidden state and MLPs (Minitron, arXiv 2407.14679).

Which dimensions of a tensor are cut, its family's rules say: those that follow the size in question. Tensors are read,
cut and written one at a time. What to keep is measured in `importance`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import CascadeError, ModelError
from nemo_cascade.models.architecture import Architecture, Attention, Dense, Experts, Layer, Mamba
from nemo_cascade.models.families import family_named
from nemo_cascade.models.hf_config import architecture_from_hf, changed_fields
from nemo_cascade.models.hf_folder import HfTensors, write_hf_folder
from nemo_cascade.models.rules import hf_shapes

Size = Literal["hidden", "ffn"]
# Lists of config.json that have one entry a layer.
_BY_LAYER = ("layer_types", "layers_block_type")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sizes that are asked for; None: as it is.

    Attributes:
        layers: how many stay.
        attention_layers: of a model whose layers differ: how many of its attention layers stay at least.
        ffn_width: rows of `up` in every dense MLP.
        hidden_size: channels of the hidden state.
    """

    layers: int | None = None
    attention_layers: int = 1
    ffn_width: int | None = None
    hidden_size: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a model, by its own numbers, in their order.

    Attributes:
        layers: of all.
        hidden: channels of the hidden state; None: all.
        ffn: layer -> channels of its MLP; layers that aren't named keep all.
    """

    layers: Sequence[int]
    hidden: Tensor | None = None
    ffn: Mapping[int, Tensor] = field(default_factory=dict)


def kind_of_layer(layer: Layer) -> str:
    """Return what a layer holds, in words."""
    words = {Attention: "attention", Mamba: "Mamba", Dense: "MLP", Experts: "experts"}
    return " + ".join(words[type(part)] for part in (layer.mixer, layer.mlp) if part is not None)


def may_go(arch: Architecture, left: Sequence[int], number: int, attention_layers: int) -> bool:
    """Tell whether a layer may be left out: some of each kind stays, and of attention as many as wanted.

    Args:
        arch: the whole model.
        left: layers that are left.
        number: one of them.
        attention_layers: least number of attention layers, where layers differ.
    """
    same = sum(arch.layers[other] == arch.layers[number] for other in left)
    alone = arch.layers[number].mlp is None and isinstance(arch.layers[number].mixer, Attention)
    return same > max(1, attention_layers if alone else 1)


def cut_problems(arch: Architecture, wanted: Wanted) -> list[CascadeError]:
    """Return everything that forbids these sizes; empty if they can be had."""
    sizes = (wanted.layers, wanted.ffn_width, wanted.hidden_size)
    problems = []
    if arch.scores:
        problems.append(CascadeError("a reward model isn't pruned", value=arch.family, mend="give a language model"))
    if all(size is None for size in sizes):
        mend = "--layers N, --ffn-width N, --hidden-size N"
        problems.append(CascadeError("nothing is to be cut", limit="at least one size", mend=mend))
    return problems + _layer_problems(arch, wanted) + _width_problems(arch, wanted)


def _layer_problems(arch: Architecture, wanted: Wanted) -> list[CascadeError]:
    have, layers = len(arch.layers), wanted.layers
    attention = sum(isinstance(layer.mixer, Attention) and layer.mlp is None for layer in arch.layers)
    if layers is None:
        return []
    if attention and not 1 <= wanted.attention_layers <= attention:
        value, limit = f"attention_layers={wanted.attention_layers}", f"1 to {attention}, as many as there are"
        return [CascadeError("so many attention layers can't stay", value=value, limit=limit, mend="another number")]
    least = len(arch.kinds) - bool(attention) + (wanted.attention_layers if attention else 0)
    if least <= layers < have:
        return []
    kinds = ", ".join(dict.fromkeys(map(kind_of_layer, arch.layers)))
    return [
        CascadeError(
            "so many layers can't stay",
            value=f"layers={layers}",
            limit=f"{least} to {have - 1}: fewer than there are, and some of each kind ({kinds})",
            mend=f"--layers {min(max(layers, least), have - 1)}" if least < have else "leave --layers out",
        )
    ]


def _width_problems(arch: Architecture, wanted: Wanted) -> list[CascadeError]:
    problems = []
    widths = sorted({layer.mlp.width for layer in arch.layers if isinstance(layer.mlp, Dense)})
    if wanted.ffn_width is not None and not widths:
        what = "the model has no dense MLP that could be narrowed"
        problems.append(CascadeError(what, value=f"ffn_width={wanted.ffn_width}", mend="leave --ffn-width out"))
    elif wanted.ffn_width is not None and not 0 < wanted.ffn_width < widths[0]:
        value, limit = f"ffn_width={wanted.ffn_width}", f"1 to {widths[0] - 1}: less than it is"
        problems.append(CascadeError("an MLP can't get this width", value=value, limit=limit, mend="a smaller width"))
    hidden, multiple = wanted.hidden_size, arch.attention.heads if arch.attention is not None else 1
    if hidden is not None and (not 0 < hidden < arch.hidden_size or hidden % multiple):
        nearest = max(multiple, min(hidden, arch.hidden_size - 1) // multiple * multiple)
        problems.append(
            CascadeError(
                "the hidden state can't get this size",
                value=f"hidden_size={hidden}",
                limit=f"below {arch.hidden_size}, a multiple of {multiple} = num_attention_heads",
                mend=f"--hidden-size {nearest}" if nearest < arch.hidden_size else "leave --hidden-size out",
            )
        )
    return problems


def pruned(arch: Architecture, kept: Kept) -> Architecture:
    """Return the architecture of what is kept."""
    hidden = arch.hidden_size if kept.hidden is None else len(kept.hidden)
    layers = tuple(_narrowed(arch.layers[number], kept.ffn.get(number)) for number in kept.layers)
    return replace(arch, embedding=replace(arch.embedding, hidden_size=hidden), layers=layers)


def _narrowed(layer: Layer, channels: Tensor | None) -> Layer:
    if channels is None or not isinstance(layer.mlp, Dense):
        return layer
    return replace(layer, mlp=replace(layer.mlp, width=len(channels)))


def followed_sizes(arch: Architecture) -> dict[str, tuple[Size | None, ...]]:
    """Return for each dimension of each HF tensor which size it follows.

    Raises:
        ModelError: one follows a size by a multiple, or both: which of its rows are a channel's nobody says.
    """
    shapes = hf_shapes(arch)
    wider: dict[Size, Architecture] = {
        "hidden": replace(arch, embedding=replace(arch.embedding, hidden_size=arch.hidden_size + 1)),
        "ffn": replace(arch, layers=tuple(_widened(layer) for layer in arch.layers)),
    }
    grown = {size: hf_shapes(other) for size, other in wider.items()}
    found: dict[str, tuple[Size | None, ...]] = {}
    for name, shape in shapes.items():
        by: list[Size | None] = []
        for place, rows in enumerate(shape):
            more: dict[Size, int] = {size: grown[size][name][place] - rows for size in wider}
            follows = [size for size, rise in more.items() if rise]
            if sum(more.values()) > 1:
                value = f"{name} {list(shape)}, dimension {place}"
                mend = "prune layers alone, or store the matrices apart"
                raise ModelError("a tensor's rows can't be told apart by channel", value=value, mend=mend)
            by.append(follows[0] if follows else None)
        found[name] = tuple(by)
    return found


def _widened(layer: Layer) -> Layer:
    return replace(layer, mlp=replace(layer.mlp, width=layer.mlp.width + 1)) if isinstance(layer.mlp, Dense) else layer


def prune_model(source: Path, target: Path, arch: Architecture, kept: Kept, beside: Mapping[str, str]) -> Architecture:
    """Write what is kept of a model as a new HF folder, atomically; dtypes and tokenizer are the source's.

    Args:
        source: HF folder.
        target: the new one.
        arch: the source's architecture.
        kept: what stays.
        beside: name -> text of further files of the new folder.

    Returns:
        The new architecture.

    Raises:
        ModelError: the folder's tensors don't fit its config; or the family has no model of the new sizes.
    """
    files, new = HfTensors(source), pruned(arch, kept)
    files.check(arch)
    config = read_json_object(source / "config.json")
    changes = _config_changes(config, arch, new, kept)
    if architecture_from_hf(config | changes, arch.family) != new:
        value = f"{new.described()}; config.json changed in {', '.join(changes)}"
        raise ModelError("config.json can't say these sizes", value=value, mend="prune layers alone")
    write_hf_folder(target, _cut(files, arch, new, kept), source, config_changes=changes, beside=beside)
    HfTensors(target).check(new)
    return new


def _config_changes(config: Mapping[str, Any], arch: Architecture, new: Architecture, kept: Kept) -> dict[str, Any]:
    changes = changed_fields(new, config)
    written = family_named(arch.family).write(new)
    if "head_dim" in written and config.get("head_dim") is None:
        changes["head_dim"] = written["head_dim"]  # else it would follow the hidden size
    for name in _BY_LAYER:
        if isinstance(config.get(name), list):
            changes[name] = [config[name][number] for number in kept.layers]
    return changes


def _cut(files: HfTensors, arch: Architecture, new: Architecture, kept: Kept) -> Iterator[tuple[str, Tensor]]:
    """Yield the new model's tensors, each cut where its dimensions follow a size."""
    family = family_named(arch.family)
    source = {name: (name, -1) for name in hf_shapes(new)}
    for place, number in enumerate(kept.layers):
        for own, old in zip(family.layer_rules(new, place), family.layer_rules(arch, number), strict=True):
            source |= {name: (other, number) for name, other in zip(own.hf, old.hf, strict=True)}
    narrowed = kept.hidden is not None or bool(kept.ffn)
    follows: Callable[[str], tuple[Size | None, ...]] = followed_sizes(arch).__getitem__ if narrowed else lambda _: ()
    for name, (old_name, number) in source.items():
        tensor = files.part(old_name)[...]
        for place, size in enumerate(follows(old_name)):
            channels = {"hidden": kept.hidden, "ffn": kept.ffn.get(number), None: None}[size]
            if channels is not None:
                tensor = tensor.index_select(place, channels)
        # A copy: a view would keep its file mapped.
        yield name, tensor.clone()
        files.let_go()


def largest(score: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest scores, in rising order; of equal ones the first."""
    return torch.sort(torch.sort(score, descending=True, stable=True).indices[:count]).values
