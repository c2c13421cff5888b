"""Refuse a run that doesn't fit, with the part that is too large and the nearest settings that do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.errors import CascadeError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.planner.regression import Figures
from nemo_cascade.planner.stage_plan import GB, StagePlan, plan_stage


def misfits(config: RunConfig, plans: list[StagePlan], architectures: dict[str, Architecture]) -> list[CascadeError]:
    """Return what doesn't fit, stage by stage."""
    stages = {name: stage for name, own in config.stages.items() if (stage := own.trained())}
    return [_misfit(config, plan, stages[plan.name], architectures[plan.name]) for plan in plans if not plan.fits]


def _misfit(config: RunConfig, plan: StagePlan, stage: TrainedStage, arch: Architecture) -> CascadeError:
    memory = plan.fullest
    phase = max(memory.phases, key=lambda name: memory.phases[name])
    part = memory.largest
    mend = next(nearest(config, plan, stage, arch), "a smaller seq_length, or a machine with more memory")
    return CascadeError(
        f"stages.{plan.name} doesn't fit: {part} {memory.parts[part] / GB:.1f} GB is the largest part",
        value=f"{memory.peak / GB:.1f} GB in phase `{phase}` of pipeline stage {memory.stage + 1}",
        limit=f"{memory.room / GB:.0f} GB of {plan.job.hardware.name}",
        mend=mend,
    )


def nearest(config: RunConfig, plan: StagePlan, stage: TrainedStage, arch: Architecture) -> Iterator[str]:
    """Yield overrides with which the stage fits, the smallest change first."""
    hardware = plan.job.hardware
    for text, changed, parallel in _changes(config, stage, arch):
        if layout_problems(arch, parallel):
            continue
        if plan_stage(changed, plan.name, stage, arch, hardware, parallel).fits:
            yield text


def _changes(
    config: RunConfig, stage: TrainedStage, arch: Architecture
) -> Iterator[tuple[str, RunConfig, ParallelConfig]]:
    """Yield (overrides, the run with them, the layout with them): recompute, the engine's share, TP, PP, both."""
    parallel = stage.layout(config)
    recomputed = replace(parallel, recompute="full")
    if parallel.recompute != "full" and not arch.hybrid:
        yield "parallel.recompute=full", config, recomputed
    share = config.rollout.gpu_memory_utilization
    lower = None
    for less in (0.5, 0.4, 0.3, 0.2):
        if stage.judged() and less < share:
            lower = replace(config, rollout=replace(config.rollout, gpu_memory_utilization=less))
            yield f"rollout.gpu_memory_utilization={less:g}", lower, parallel
    for base, words in ((parallel, ""), (recomputed, " parallel.recompute=full")):
        for tp in (2, 4, 8):
            for pp in (1, 2, 4, 8, 16):
                layout = base.layout
                if tp * pp <= layout.tp * layout.pp or tp < layout.tp or pp < layout.pp:
                    continue
                ranks = layout.ranks
                dp = max(1, ranks // (tp * pp * layout.cp))
                made = replace(
                    base,
                    tensor_model_parallel_size=tp,
                    pipeline_model_parallel_size=pp,
                    data_parallel_size=dp,
                    sequence_parallel=tp > 1,
                    virtual_pipeline_model_parallel_size=1,
                )
                sizes = f"parallel.tensor_model_parallel_size={tp} parallel.pipeline_model_parallel_size={pp}"
                text = (
                    f"{sizes} parallel.data_parallel_size={dp} parallel.sequence_parallel={str(tp > 1).lower()}{words}"
                )
                yield text, lower or config, made


def plan_run(
    config: RunConfig, architectures: dict[str, Architecture], hardware: HardwareConfig, more: Figures | None = None
) -> list[StagePlan]:
    """Plan every stage that trains a model whose sizes are known."""
    return [
        plan_stage(config, name, stage, architectures[name], hardware, more=more)
        for name, own in config.stages.items()
        if name in architectures and (stage := own.trained())
    ]
