"""Which GPU belongs to whom. All GPUs of the run are reserved at once; roles are then placed by node and device.

The policy takes GPUs from the front. Colocated engines sit on the same ones, engine i on the GPUs
[i * TP, (i + 1) * TP); disaggregated engines take theirs from the back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.config.schema import ScorerConfig
from nemo_cascade.errors import ConfigError, RuntimeUnavailableError


@dataclass(frozen=True, slots=True)
class GpuSlot:
    """One GPU: Ray's id of its node, and its number there."""

    node_id: str
    gpu: int


def reserve_gpus(count: int, deadline_s: float) -> list[GpuSlot]:
    """Reserve `count` GPUs of the cluster for the run, and find out where they are.

    Returns:
        The GPUs, sorted by node and number, the driver's node first: what the policy's first rank hands to the engines
        beside it, and to the driver, need not cross the network.

    Raises:
        RuntimeUnavailableError: the cluster doesn't have them, or not within the deadline.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def where() -> GpuSlot:
        context = ray.get_runtime_context()
        return GpuSlot(context.get_node_id(), int(context.get_accelerator_ids()["GPU"][0]))

    here = ray.get_runtime_context().get_node_id()
    group = placement_group([{"GPU": 1}] * count, strategy="PACK")
    try:
        ray.get(group.ready(), timeout=deadline_s)
        task = ray.remote(where)
        found = [
            task.options(
                num_cpus=0,
                num_gpus=1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=index
                ),
            ).remote()
            for index in range(count)
        ]
        return in_order(ray.get(found, timeout=deadline_s), here)
    except GetTimeoutError as error:
        raise RuntimeUnavailableError(
            "the cluster does not give the run its GPUs",
            value=f"{int(ray.cluster_resources().get('GPU', 0))} GPUs in the cluster",
            limit=f"{count} = cluster.num_nodes * cluster.gpus_per_node",
            mend="wait for the nodes to join, or lower cluster.num_nodes",
        ) from error


def in_order(slots: Sequence[GpuSlot], driver_node: str) -> list[GpuSlot]:
    """Return GPUs sorted by node and number, those of the driver's node first."""
    return sorted(slots, key=lambda slot: (slot.node_id != driver_node, slot.node_id, slot.gpu))


def policy_slots(slots: Sequence[GpuSlot], world_size: int) -> list[GpuSlot]:
    """Return each policy rank's GPU.

    Raises:
        ConfigError: more ranks than GPUs.
    """
    if world_size > len(slots):
        raise ConfigError([f"the policy's layout needs {world_size} GPUs, the run has {len(slots)}"])
    return list(slots[:world_size])


def engine_slots(slots: Sequence[GpuSlot], config: RolloutConfig) -> list[list[GpuSlot]]:
    """Return the GPUs of each engine.

    Raises:
        ConfigError: too few GPUs, or an engine that would span nodes.
    """
    size, count = config.tensor_parallel_size, config.num_engines
    if size * count > len(slots):
        raise ConfigError([f"{count} engines of {size} GPUs need {size * count}, the run has {len(slots)}"])
    own = list(slots[: size * count] if config.placement == "colocated" else slots[-size * count :])
    engines = [own[i * size : (i + 1) * size] for i in range(count)]
    split = [i for i, engine in enumerate(engines) if len({slot.node_id for slot in engine}) > 1]
    if split:
        raise ConfigError(
            [f"engine {i} would span nodes: choose a tensor_parallel_size that divides a node" for i in split]
        )
    return engines


def scorer_slots(slots: Sequence[GpuSlot], config: ScorerConfig, rollout: RolloutConfig) -> list[list[GpuSlot]]:
    """Return the GPUs of each replica of the reward model, from the back, shared with whoever else is there.

    Engines with GPUs of their own keep the last ones, and the replicas stand before them.

    Raises:
        ConfigError: too few GPUs.
    """
    size, count = config.tensor_parallel_size, config.num_replicas
    if not slots:
        return [[] for _ in range(count)]
    if size * count > len(slots):
        raise ConfigError([f"{count} reward models of {size} GPUs need {size * count}, the run has {len(slots)}"])
    engines = rollout.num_engines * rollout.tensor_parallel_size if rollout.placement == "disaggregated" else 0
    last = max(size * count, len(slots) - engines)
    own = list(slots[last - size * count : last])
    return [own[i * size : (i + 1) * size] for i in range(count)]


def frozen_slots(slots: Sequence[GpuSlot], world_size: int) -> list[GpuSlot]:
    """Return the GPU of each rank that holds frozen models, from the back, shared with whoever else is there.

    Raises:
        ConfigError: more ranks than GPUs.
    """
    if world_size > len(slots):
        raise ConfigError([f"the frozen models' layout needs {world_size} GPUs, the run has {len(slots)}"])
    return list(slots[-world_size:])


def placed_on(slots: Sequence[GpuSlot]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the environment and the Ray options that put an actor onto GPUs of one node."""
    devices = ",".join(str(slot.gpu) for slot in slots)
    return {"CUDA_VISIBLE_DEVICES": devices}, {"scheduling_strategy": on_node(slots[0].node_id)}


def beside_the_driver() -> dict[str, Any]:
    """Return the Ray options that put a rank without a GPU onto the driver's node, if it can be.

    Ray would put an actor that asks for nothing anywhere.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": on_node(here, soft=True)}


def on_node(node_id: str, *, soft: bool = False) -> Any:
    """Return Ray's strategy that puts something onto a node; `soft` takes another one where that node can't be had."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node_id, soft=soft)
