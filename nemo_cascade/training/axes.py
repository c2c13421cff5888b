"""The process groups of a layout: laid out, cleared, looked up by axis. The only file that asks Megatron for them."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from nemo_cascade.config.layout import Layout
from nemo_cascade.models.axes import Axes, Axis
from nemo_cascade.models.megatron import backend  # noqa: F401  before anything of megatron

from megatron.core import parallel_state  # isort: skip


def lay_out(layout: Layout, timeout: timedelta) -> None:
    """Make the process groups of a layout; collective over all ranks.

    Args:
        layout: its size is the number of ranks.
        timeout: a collective that takes longer has lost a partner.
    """
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        create_gloo_process_groups=False,  # doubles of the data-parallel groups, for optimizers that gather on a CPU
        distributed_timeout_minutes=int(timeout.total_seconds() // 60),
    )


def clear() -> None:
    """Destroy the process groups of the layout; collective over all ranks.

    Megatron-Core only forgets them: their communicators' memory and threads would stay until the process ends.
    """
    parallel_state.destroy_model_parallel()
    everybody = dist.group.WORLD
    for group in [group for group in _groups() if group is not everybody]:
        dist.destroy_process_group(group)


def _groups() -> list[dist.ProcessGroup]:
    """Return all groups that this process is a member of, in the order in which they were made."""
    return list(dist.distributed_c10d._world.pg_map)


def current_axes() -> Axes:
    """Return this rank's place in the layout that exists now."""
    return {
        "tp": _axis(parallel_state.get_tensor_model_parallel_group()),
        "pp": _axis(parallel_state.get_pipeline_model_parallel_group()),
        "cp": _axis(parallel_state.get_context_parallel_group()),
        "dp": _axis(parallel_state.get_data_parallel_group()),
        "dp_cp": _axis(parallel_state.get_data_parallel_group(with_context_parallel=True)),
        "stage": _axis(parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)),
        "ep": _axis(parallel_state.get_expert_model_parallel_group()),
        "etp": _axis(parallel_state.get_expert_tensor_parallel_group()),
        "edp": _axis(parallel_state.get_expert_data_parallel_group()),
    }


def _axis(group: Any) -> Axis:
    return Axis(dist.get_rank(group), dist.get_world_size(group), group, tuple(dist.get_process_group_ranks(group)))
