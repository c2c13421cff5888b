"""Weights between HF folders and Megatron models, streamed, for every tensor- and pipeline-parallel layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.errors import ModelError
from nemo_cascade.models import backend  # before anything of megatron
from nemo_cascade.models.architectures import Architecture, scalar_head_config
from nemo_cascade.models.cuts import hf_shape, join, take
from nemo_cascade.models.hf_folder import HfTensors, padding_token, write_hf_folder
from nemo_cascade.models.maps import OUTPUT, SCORE, Cut, Entry, Shape, WeightMap

_END_OF_TURN = "<|im_end|>"


def load_weights(model: Any, arch: Architecture, folder: Path, *, head_seed: int | None = None) -> None:
    """Fill this rank's parameters from an HF folder, reading only its own rows. Not collective.

    Args:
        model: GPTModel of `build_model`, wrapped or not; before an optimizer copies its parameters.
        arch: its architecture.
        folder: HF folder; tensors are cast to the parameters' dtype.
        head_seed: draws a scalar head that the folder lacks, from N(0, 1/(hidden + 1)) (arXiv 2009.01325); None: the
            folder must have it.

    Raises:
        ModelError: listing every missing, surplus or wrongly shaped tensor of the folder, or of the model.
    """
    from megatron.core import parallel_state

    size = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    files = HfTensors(folder)
    fresh_head = arch.head == "scalar" and head_seed is not None and SCORE.hf[0] not in files.stored
    files.check(arch, fresh_head=fresh_head)
    parameters = mapped_parameters(model, arch)
    if fresh_head:
        head = [parameter for entry, parameter in parameters if entry.hf == SCORE.hf]
        parameters = [item for item in parameters if item[0].hf != SCORE.hf]
        for parameter in head:  # none but on the last pipeline stage; the same on all its tensor-parallel ranks
            generator = torch.Generator().manual_seed(head_seed or 0)
            drawn = torch.randn(parameter.shape, generator=generator) / (arch.hidden_size + 1) ** 0.5
            parameter.data.copy_(drawn)
    problems = [
        f"{entry.megatron} {list(parameter.shape)} stands for {shape}, but {name} is {files.stored[name].shape}"
        for entry, parameter in parameters
        for name, shape in zip(entry.hf, hf_shape(entry.cut, tuple(parameter.shape), size, arch), strict=True)
        if shape != files.stored[name].shape
    ]
    if problems:
        raise ModelError("the model was built for another layout or architecture: " + "; ".join(problems))
    with torch.no_grad():
        for entry, parameter in parameters:
            parts = [files.part(name) for name in entry.hf]
            parameter.copy_(take(entry.cut, parts, tuple(parameter.shape), rank, size, arch))


def export_weights(model: Any, arch: Architecture, *, everywhere: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (HF name, whole tensor) one at a time, in HF order. Collective: every rank must exhaust it.

    Only one data-parallel replica works unless `everywhere`; at most one whole tensor exists at a time.

    Args:
        model: GPTModel, wrapped or not.
        arch: its architecture.
        everywhere: yield on every rank; otherwise on global rank 0 alone, and nothing on the others.

    Yields:
        Tensors on this rank's device in the model's dtype, without padding, a tied tensor once. They may
        share memory with the model: copy before training goes on.
    """
    from megatron.core import parallel_state

    if not everywhere and parallel_state.get_data_parallel_rank(with_context_parallel=True) != 0:
        return
    own = [
        (entry, parameter.detach())
        for entry, parameter in mapped_parameters(model, arch)
        if not (arch.tied and entry.megatron in OUTPUT.megatron)  # the same tensor as the embedding
    ]
    if not everywhere and parallel_state.get_tensor_model_parallel_rank() != 0:
        for entry, parameter in own:
            _collect_shards(entry, parameter, everywhere=False)
        return
    size = parallel_state.get_tensor_model_parallel_world_size()
    group = parallel_state.get_pipeline_model_parallel_group()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    plan = [(entry, tuple(parameter.shape), parameter.dtype) for entry, parameter in own]
    plans: list[list[tuple[Entry, Shape, torch.dtype]]] = [plan]
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        plans = [[] for _ in range(group.size())]
        dist.all_gather_object(plans, plan, group=group)
    for owner, items in enumerate(plans):
        for index, (entry, shape, dtype) in enumerate(items):
            if stage == owner:
                wholes = join(entry.cut, _collect_shards(*own[index], everywhere=everywhere), arch)
            else:
                shapes = hf_shape(entry.cut, shape, size, arch)
                wholes = [torch.empty(whole, dtype=dtype, device=backend.device()) for whole in shapes]
            if everywhere and len(plans) > 1:
                wholes = _broadcast(wholes, owner, group)
            elif owner != 0:
                wholes = _hand_to_first(wholes, owner, stage, group)
            if everywhere or stage == 0:
                yield from zip(entry.hf, wholes, strict=True)


def save_hf(
    model: Any,
    arch: Architecture,
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model as an HF folder, atomically. Collective; rank 0 writes, the others wait for it.

    Args:
        model: GPTModel, wrapped or not.
        arch: its architecture.
        source: HF folder whose config.json and tokenizer files are taken over, and whose tensors' dtypes are kept
            unless that would lose bits (a fp32 model out of a bf16 folder stays fp32).
        target: the new folder.
        dtype: dtype of all tensors instead.
    """
    stored = HfTensors(source).stored if dist.get_rank() == 0 else {}

    def cast() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in export_weights(model, arch):
            own = stored[name].dtype if name in stored else tensor.dtype  # a scalar head is new to the source
            yield name, tensor.to(dtype or torch.promote_types(own, tensor.dtype))

    if dist.get_rank() == 0:
        write_hf_folder(target, cast(), source, config_changes=_config_changes(arch, source))
    else:
        for _ in export_weights(model, arch):
            pass
    dist.barrier()


def _config_changes(arch: Architecture, source: Path) -> dict[str, Any]:
    """Return what a reward model's config.json has to say; nothing changes for a language model."""
    if arch.head == "lm":
        return {}
    padding = padding_token(source, _END_OF_TURN)
    return {**scalar_head_config(arch.model_type), **({} if padding is None else {"pad_token_id": padding})}


def mapped_parameters(model: Any, arch: Architecture) -> list[tuple[Entry, torch.Tensor]]:
    """Return this rank's parameters with their map entries (global layer numbers).

    Raises:
        ModelError: parameters that no rule of the architecture knows.
    """
    while not hasattr(model, "decoder"):
        model = model.module  # DDP and Float16Module
    numbers = [layer.layer_number - 1 for layer in model.decoder.layers]
    weight_map = WeightMap(arch)
    result, unknown = [], []
    for name, parameter in model.named_parameters():
        entry = weight_map.entry(_globalise(name, numbers))
        if entry is None:
            unknown.append(name)
        else:
            result.append((entry, parameter))
    if unknown:
        raise ModelError(f"no rule of {arch.model_type} knows these parameters", value=", ".join(unknown))
    return result


def _globalise(name: str, numbers: list[int]) -> str:
    """Replace the stage's layer index by the model's."""
    head, _, tail = name.partition("decoder.layers.")
    if not tail:
        return name
    index, _, rest = tail.partition(".")
    return f"{head}decoder.layers.{numbers[int(index)]}.{rest}"


def _collect_shards(entry: Entry, parameter: torch.Tensor, *, everywhere: bool) -> list[torch.Tensor]:
    """Return all tensor-parallel ranks' shards, on every one of them or on the first alone (elsewhere: empty)."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    if entry.cut is Cut.WHOLE or group.size() == 1:
        return [parameter]
    own = parameter.contiguous()
    if everywhere:
        shards = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(shards, own, group=group)
        return shards
    first = group.rank() == 0
    gathered = [torch.empty_like(own) for _ in range(group.size())] if first else None
    dist.gather(own, gathered, dst=dist.get_global_rank(group, 0), group=group)
    return gathered or []


def _broadcast(wholes: list[torch.Tensor], owner: int, group: Any) -> list[torch.Tensor]:
    sent = [whole.contiguous() for whole in wholes]
    for whole in sent:
        dist.broadcast(whole, src=dist.get_global_rank(group, owner), group=group)
    return sent


def _hand_to_first(wholes: list[torch.Tensor], owner: int, stage: int, group: Any) -> list[torch.Tensor]:
    """Send from the owning pipeline stage to the first; other stages have no part in it."""
    for whole in wholes:
        if stage == owner:
            dist.send(whole.contiguous(), dst=dist.get_global_rank(group, 0), group=group)
        elif stage == 0:
            dist.recv(whole, src=dist.get_global_rank(group, owner), group=group)
    return wholes
