"""Refuse a run that doesn't fit, with the part that is too large and the nearest settings that do."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.errors import CascadeError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.planner.ranks.memory import GB
from nemo_cascade.planner.regression import Figures
from nemo_cascade.planner.stage_plan import StagePlan, plan_stage


def misfits(config: RunConfig, plans: list[StagePlan], architectures: dict[str, Architecture]) -> list[CascadeError]:
    """Return what doesn't fit, stage by stage."""
    stages = {name: stage for name, own in config.stages.items() if (stage := own.trained())}
    return [_misfit(config, plan, stages[plan.name], architectures[plan.name]) for plan in plans if not plan.fits]


def _misfit(config: RunConfig, plan: StagePlan, stage: TrainedStage, arch: Architecture) -> CascadeError:
    memory = plan.fullest
    phase = max(memory.phases, key=lambda name: memory.phases[name])
    part = memory.too_large
    mend = next(nearest(config, plan, stage, arch), "a smaller seq_length, or a machine with more memory")
    return CascadeError(
        f"stages.{plan.name} doesn't fit: {part} {memory.parts[part] / GB:.1f} GB is the part that is too large",
        value=f"{memory.peak / GB:.1f} GB in phase `{phase}` of {memory.whose}",
        limit=f"{memory.room / GB:.0f} GB of {plan.job.hardware.name}",
        mend=mend,
    )


def nearest(config: RunConfig, plan: StagePlan, stage: TrainedStage, arch: Architecture) -> Iterator[str]:
    """Yield overrides with which the stage fits, the smallest change first."""
    parallel = stage.layout(config)
    own = "parallel" if parallel is config.parallel else f"stages.{plan.name}.parallel"
    for engines, sizes in _changes(config, plan, parallel):
        made = replace(parallel, **sizes)
        if layout_problems(arch, made):
            continue
        changed = replace(config, rollout=replace(config.rollout, **engines))
        if plan_stage(changed, plan.name, stage, arch, plan.job.hardware, made).fits:
            words = [f"{own}.{key}={_word(value)}" for key, value in sizes.items()]
            yield " ".join([*words, *(f"rollout.{key}={_word(value)}" for key, value in engines.items())])


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _changes(
    config: RunConfig, plan: StagePlan, parallel: ParallelConfig
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield changes of (the engines, the layout): what costs no time, what costs little, other cuts of the ranks.

    Those of the engines are left out where the ranks wouldn't fit without any, those of the layout where ranks fit.
    """
    ranks = [one for one in plan.memory if not one.fits]
    engines = [] if plan.engine is None else list(_engine_changes(config))
    if not ranks:
        yield from ((engine, {}) for engine in engines)
        return
    sharded = {} if parallel.use_distributed_optimizer else {"use_distributed_optimizer": True}
    recomputed = sharded if parallel.recompute == "full" else sharded | {"recompute": "full"}
    layouts = list({str(one): one for one in (sharded, recomputed)}.values())
    yield from (({}, layout) for layout in layouts if layout)
    if all(one.peak - one.of_engines <= one.room for one in ranks):
        yield from ((engine, layout) for engine in engines for layout in layouts)
    smallest = [{}, *engines[:1]]
    for sizes in (*_more_replicas(config, parallel), *_other_cuts(parallel)):
        yield from ((engine, sizes | layout) for layout in layouts for engine in smallest)


def _engine_changes(config: RunConfig) -> Iterator[dict[str, Any]]:
    rollout = config.rollout
    share, tp, gpus = rollout.gpu_memory_utilization, rollout.tensor_parallel_size, rollout.num_engines
    gpus *= tp
    together = rollout.placement == "colocated"
    for other in (0.5, 0.4, 0.3, 0.2) if together else (0.9, 0.8):
        if (other < share) == together:
            yield {"gpu_memory_utilization": other}
    for more in (2, 4, 8, 16):
        if more > tp and gpus % more == 0:
            yield {"tensor_parallel_size": more, "num_engines": gpus // more}
            yield {"tensor_parallel_size": more, "num_engines": gpus // more, "gpu_memory_utilization": min(share, 0.4)}


def _more_replicas(config: RunConfig, parallel: ParallelConfig) -> Iterator[dict[str, Any]]:
    """Yield more replicas, over which the optimizer is cut, as far as the cluster has accelerators for them."""
    layout, dp = parallel.layout, parallel.data_parallel_size
    while layout.ranks // layout.dp * (dp := 2 * dp) <= config.cluster.num_nodes * (config.cluster.gpus_per_node or 0):
        yield {"data_parallel_size": dp}


def _other_cuts(parallel: ParallelConfig) -> Iterator[dict[str, Any]]:
    """Yield more tensor, pipeline and context parallelism of the same number of ranks, the fewest parts first."""
    layout = parallel.layout
    cuts = [
        (tp, pp, cp)
        for tp in (layout.tp, 2, 4, 8)
        for pp in (layout.pp, 2, 4, 8, 16)
        for cp in (layout.cp, 2, 4, 8)
        if tp >= layout.tp and pp >= layout.pp and cp >= layout.cp and layout.ranks % (tp * pp * cp) == 0
    ]
    for tp, pp, cp in sorted(dict.fromkeys(cuts), key=lambda cut: (math.prod(cut), cut[2], cut[1])):
        if (tp, pp, cp) == (layout.tp, layout.pp, layout.cp):
            continue
        changed = {
            "tensor_model_parallel_size": tp,
            "pipeline_model_parallel_size": pp,
            "context_parallel_size": cp,
            "data_parallel_size": layout.ranks // (tp * pp * cp),
            "sequence_parallel": tp > 1,
            "virtual_pipeline_model_parallel_size": 1,
        }
        yield {key: value for key, value in changed.items() if value != getattr(parallel, key)}


def plan_run(
    config: RunConfig, architectures: dict[str, Architecture], hardware: HardwareConfig, more: Figures | None = None
) -> list[StagePlan]:
    """Plan every stage that trains a model whose sizes are known."""
    return [
        plan_stage(config, name, stage, architectures[name], hardware, more=more)
        for name, own in config.stages.items()
        if name in architectures and (stage := own.trained())
    ]
