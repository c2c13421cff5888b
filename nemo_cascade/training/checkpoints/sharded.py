"""What the ranks write into a checkpoint folder and read back: Megatron's sharded format, reshardable.

Model and optimizer are stored by global tensor name, so a checkpoint of one layout loads into another (TP, PP and DP
may all change). Megatron's own writer starts a process that imports the main module again, and forks; neither is
possible inside a Ray worker or beside threads. Here torch's plain writer stores the same format in this process.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.checkpoint import save as torch_save

from nemo_cascade.errors import CheckpointError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.rules import names_with_padded_groups, without_layer
from nemo_cascade.training.axes import current_axes

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core import dist_checkpointing  # isort: skip
from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor  # isort: skip
from megatron.core.dist_checkpointing.core import CheckpointingException  # isort: skip
from megatron.core.dist_checkpointing.dict_utils import nested_values  # isort: skip
from megatron.core.dist_checkpointing.strategies.fully_parallel import (  # isort: skip
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (  # isort: skip
    MCoreSavePlanner,
    TorchDistLoadShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.tensor_parallel import get_cuda_rng_tracker  # isort: skip

STATE = "state.json"
_SHARDING = "fully_reshardable"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint says beside its tensors.

    Attributes:
        kind: what must be the same where it is loaded (dtype, optimizer sharding, ...).
        layout: what may change, as `tensor_model_parallel_size` and so on.
        skipped_steps: steps of the stage whose gradient was not finite.
        user: the caller's own JSON-like state.
    """

    kind: Mapping[str, Any]
    layout: Mapping[str, Any]
    skipped_steps: int
    user: Mapping[str, Any]


def save(folder: Path, chunks: Sequence[torch.nn.Module], optimizer: Any, saved: Saved) -> None:
    """Write model, optimizer, random state and `saved`; collective.

    Args:
        folder: existing and empty, the same for all ranks.
        chunks: this rank's, bare.
        optimizer: Megatron's optimizer.
        saved: written by rank 0 as state.json.

    Raises:
        CheckpointError: a file could not be written.
    """
    metadata = _metadata()
    sharded = {"model": _model_state(chunks, metadata), "random": _random_state()}
    sharded["optimizer"] = optimizer.sharded_state_dict(sharded["model"], is_loading=False, metadata=metadata)
    # Data-parallel replicas hold the same tensors: each of them writes a part.
    strategy = FullyParallelSaveStrategyWrapper(_InProcessSave(), metadata["dp_cp_group"])
    try:
        dist_checkpointing.save(sharded, str(folder), sharded_strategy=strategy)
        if dist.get_rank() == 0:
            body = {
                "kind": saved.kind,
                "layout": saved.layout,
                "skipped_steps": saved.skipped_steps,
                "user": saved.user,
            }
            (folder / STATE).write_text(json.dumps(body, indent=1), encoding="utf-8")
    except (CheckpointException, CheckpointingException, OSError, RuntimeError) as error:
        free_mib = shutil.disk_usage(folder).free >> 20
        raise CheckpointError(
            "the checkpoint could not be written",
            value=f"{folder}: {_reason(error)}",
            mend=f"{free_mib} MiB are free there; where that is too little, make room and give the same command again: "
            "it goes on from the checkpoint before",
        ) from error
    except TypeError as error:
        raise CheckpointError("the extra state is not JSON-like", value=str(error)) from error
    dist.barrier()


def _reason(error: BaseException) -> str:
    """Return why writing failed, in one line: torch quotes the traceback of every rank."""
    causes = [wrapped[0] for wrapped in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    seen: BaseException | None = causes[0] if causes else error
    while seen is not None:  # torch's writer says "unexpected pos" on top of what the system said
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    first = causes[0] if causes else error
    return f"{type(first).__name__}: {str(first).strip().splitlines()[-1] if str(first).strip() else ''}"


def load(
    folder: Path,
    chunks: Sequence[torch.nn.Module],
    optimizer: Any,
    arch: Architecture,
    *,
    kind: Mapping[str, Any],
    layout: Mapping[str, Any],
) -> Saved:
    """Fill model, optimizer and random state from a checkpoint; collective.

    Args:
        folder: a committed and verified checkpoint.
        chunks: this rank's, bare.
        optimizer: Megatron's optimizer, made for the same model.
        arch: the model's.
        kind: must equal the saved one.
        layout: may differ; random state is only restored where it doesn't (no trained number draws on it: dropout is
            refused).

    Raises:
        CheckpointError: unreadable, of another kind, or of another model.
    """
    saved = read_state(folder)
    different = [
        f"{key}: saved {saved.kind.get(key)!r}, here {kind[key]!r}" for key in kind if saved.kind.get(key) != kind[key]
    ]
    if different:
        raise CheckpointError(
            f"the checkpoint {folder} is of another kind",
            value="; ".join(different),
            mend="resume with the configuration that wrote it, or under another name",
        )
    metadata = _metadata()
    sharded: dict[str, Any] = {"model": _model_state(chunks, metadata)}
    same_layout = saved.layout == layout
    if not same_layout:
        _allow_other_padding(sharded["model"], arch)
    sharded["optimizer"] = optimizer.sharded_state_dict(sharded["model"], is_loading=True, metadata=metadata)
    if same_layout:
        sharded["random"] = _random_state()
    # Each replica reads a part and sends it to the others: storage sees every byte once, not once per replica.
    strategy = FullyParallelLoadStrategyWrapper(TorchDistLoadShardedStrategy(), metadata["dp_cp_group"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Megatron reads through torch's older entry points, which say so at length
            loaded = dist_checkpointing.load(sharded, str(folder), sharded_strategy=strategy)
    except (CheckpointException, CheckpointingException, KeyError, OSError) as error:
        raise CheckpointError(
            "the checkpoint does not fit this model",
            value=f"{folder}: {error}",
            mend="resume with the model that wrote it, or under another name",
        ) from error
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded["model"][str(number)])
    optimizer.load_state_dict(loaded["optimizer"] if same_layout else _regrouped(loaded["optimizer"], optimizer))
    if same_layout:
        _restore_random_state(loaded["random"])
    else:
        _log.debug("checkpoint of layout %s loaded into %s", dict(saved.layout), dict(layout))
    return saved


def read_state(folder: Path) -> Saved:
    """Read what a checkpoint says about itself.

    Raises:
        CheckpointError: it has no readable state.json.
    """
    try:
        return Saved(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            "this is not a readable checkpoint",
            value=f"{folder / STATE}: {error}",
            mend="delete the folder: the checkpoint before it is taken",
        ) from error


def _metadata() -> dict[str, Any]:
    return {
        "distrib_optim_sharding_type": _SHARDING,
        "dp_cp_group": current_axes()["dp_cp"].group,
        "chained_optim_avoid_prefix": True,
    }


def _model_state(chunks: Sequence[torch.nn.Module], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chunks' tensors; in the files each has its global name, whichever chunk it is of."""
    return {str(number): chunk.sharded_state_dict(metadata=metadata) for number, chunk in enumerate(chunks)}


def _allow_other_padding(model_state: dict[str, Any], arch: Architecture) -> None:
    """Let a checkpoint with more or fewer padding groups be read: `kind` has shown that nothing else can differ.

    The padding is the end of its axis and zero. What the checkpoint lacks is read as zero, also in the optimizer's
    state, which takes this mark over; what it has too much is not read. Megatron does so with the vocabulary itself.
    """
    padded = names_with_padded_groups(arch)
    for tensor in nested_values(model_state):
        if isinstance(tensor, ShardedTensor) and without_layer(tensor.key) in padded:
            tensor.allow_shape_mismatch = True


def _regrouped(loaded: dict[Any, Any], optimizer: Any) -> Any:
    """Return a checkpoint's optimizer state in the groups that this layout's optimizer has.

    Where experts are dealt out, Megatron has an optimizer of its own for them, and their groups are marked; the tensors
    have the same names everywhere. Of what a group says beside, only its step is not set anew before every update.
    """
    steps = {step for step in _steps(loaded) if step is not None}
    own = optimizer.state_dict()
    parts: dict[int | None, Any] = {None: own} if isinstance(own, Mapping) else dict(enumerate(own))
    if len(steps) != 1 or "param_state" not in (loaded if None in parts else loaded.get(0, {})):
        return loaded  # nothing was updated yet, or moments are not sharded: groups as they are
    for number, part in parts.items():
        found = loaded if number is None else loaded[number]
        part.update(param_state=found["param_state"], param_state_sharding_type=_SHARDING)
        for group in part["optimizer"]["param_groups"]:
            group["step"] = next(iter(steps))
    return own


def _steps(state: Any) -> Iterator[Any]:
    """Yield what every group of parameters in a state says of its step."""
    if isinstance(state, Mapping):
        for group in state.get("param_groups", ()):
            yield group.get("step")
        for key, value in state.items():
            if key != "param_state":
                yield from _steps(value)


def _random_state() -> ShardedObject:
    state = {"host": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    if backend.HAS_GPU:
        state["device"] = torch.cuda.get_rng_state()
    return ShardedObject("random_state", state, (dist.get_world_size(),), (dist.get_rank(),), replica_id=0)


def _restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["host"])
    if backend.HAS_GPU:
        torch.cuda.set_rng_state(state["device"])
    get_cuda_rng_tracker().set_states(state["tracker"])


class _InProcessSave:
    """Megatron's torch_dist format through torch's own writer: no process is started.

    No subclass of Megatron's: up to 0.18 strategies have a base class, since 0.19 none; what is asked of the one inside
    `FullyParallelSaveStrategyWrapper` are these members, in all of them.
    """

    backend, version = "torch_dist", 1
    can_handle_sharded_objects = True  # they go into the same files as tensors

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write this rank's shards; collective."""
        flat, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        torch_save(
            mcore_to_pyt_state_dict(flat, False),
            storage_writer=FileSystemWriter(checkpoint_dir),
            planner=MCoreSavePlanner(flatten_state_dict=False),
        )
