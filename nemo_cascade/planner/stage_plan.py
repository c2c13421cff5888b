"""What a stage of a run needs and how long it takes: memory by part and phase, seconds by phase, whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.fitted import Estimate, estimates, shipped
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.memory import MemoryFormula
from nemo_cascade.planner.quantity import MEMORY, RL, TRAIN, Peak
from nemo_cascade.planner.rank_parameters import RankBytes, rank_bytes, stage_parameters
from nemo_cascade.planner.regression import Figures
from nemo_cascade.planner.rollouts import RlFormula, RlStep
from nemo_cascade.planner.run_jobs import job_for, rl_step_of

GB = 1e9
OUTSIDE_GB = {"cpu": 0.35}
"""Held beside tensors: on a GPU context, NCCL and first kernels' workspaces; on a CPU the imported libraries."""
_OUTSIDE_GPU_GB = 3.5  # of a job of several GPUs; mlc-ai/pith-train tools/memory_estimator @889a4088: 0.5 + 1.0 + 3.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest rank of one pipeline stage, or of an engine, by part and by phase.

    Attributes:
        whose: in words.
        parts: by name: weights, gradients, optimizer, activations, working, logits, outside; engine weights and cache
            where engines share the GPU.
        phases: by name: train, and generate, score, sync where there are engines.
        room: that the accelerator has for the rank.
    """

    whose: str
    parts: Mapping[str, float]
    phases: Mapping[str, float]
    room: float

    @property
    def peak(self) -> float:
        """Bytes of the largest phase."""
        return max(self.phases.values())

    @property
    def largest(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def too_large(self) -> str:
        """The part to blame where it doesn't fit: weights that alone have no room, else the one that takes most."""
        alone = next((name for name in self.parts if "weights" in name and self.parts[name] > self.room), None)
        return alone or self.largest

    @property
    def fits(self) -> bool:
        """Whether every phase has room."""
        return self.peak <= self.room


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage.

    Attributes:
        name: of the stage.
        job: its training.
        memory: of each pipeline stage.
        engine: bytes of an engine on GPUs of its own; of one that shares them, what it needs at least of its share;
            None where there is none.
        seconds: of a step by phase.
        step: seconds of a step, with its range.
        steps: at most; None where the data say it.
        model_flops: of one update's tokens.
        gpus: that the stage holds.
    """

    name: str
    job: Job
    memory: tuple[Memory, ...]
    engine: Memory | None
    seconds: Mapping[str, float]
    step: Estimate
    steps: int | None
    model_flops: float
    gpus: int

    @property
    def fits(self) -> bool:
        """Whether every rank and every engine has room."""
        return all(one.fits for one in self.all_memory)

    @property
    def all_memory(self) -> tuple[Memory, ...]:
        """Memory of the ranks, and of engines."""
        return (*self.memory, *([self.engine] if self.engine else []))

    @property
    def fullest(self) -> Memory:
        """Who lacks most room."""
        return max(self.all_memory, key=lambda one: one.peak / one.room)

    @property
    def mfu(self) -> float:
        """Model FLOPs of a training step over what its GPUs could do meanwhile, by BF16's data sheet."""
        peak = self.job.hardware.bf16_tflops * 1e12 * self.job.layout.ranks
        return self.model_flops / (self.seconds["train"] * peak)

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens a second and GPU over the whole step."""
        return self.job.step_tokens / self.step.value / self.gpus

    @property
    def hours(self) -> float | None:
        """Hours of the whole stage; None where the data say how many steps it has."""
        return None if self.steps is None else self.steps * self.step.value / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all the stage's accelerators; None as `hours`."""
        return None if self.hours is None else self.hours * self.gpus

    @property
    def cost(self) -> float | None:
        """What they cost; None where hours or the price of one aren't known."""
        price = self.job.hardware.price_per_hour
        return None if self.gpu_hours is None or not price else self.gpu_hours * price


def plan_stage(
    config: RunConfig,
    name: str,
    stage: TrainedStage,
    arch: Architecture,
    hardware: HardwareConfig,
    parallel: ParallelConfig | None = None,
    more: Figures | None = None,
) -> StagePlan:
    """Plan one stage.

    Args:
        config: the run.
        name: of the stage.
        stage: its configuration.
        arch: the model that it trains.
        hardware: the machine.
        parallel: another layout than the stage's own.
        more: steps measured on this machine.
    """
    parallel = parallel or stage.layout(config)
    job = job_for(config, stage, arch, hardware, parallel)
    update = estimates(TRAIN, shipped("train"), [job], more)[0]
    rl = rl_step_of(config, stage, job, update.value)
    memory = tuple(
        _memory(config, job, number, _exact(config, arch, parallel, number), rl)
        for number in sorted({0, job.layout.pp // 2, job.layout.pp - 1})
    )
    seconds, step = _seconds(job, update, rl, ahead=stage.steps_ahead() > 0)
    apart = rl is not None and not rl.together
    engines = rl.engine.tp * int(rl.engines) if rl is not None and apart else 0
    return StagePlan(
        name=name,
        job=job,
        memory=memory,
        engine=None if rl is None else _engine(config, rl),
        seconds=seconds,
        step=step,
        steps=stage.size().steps,
        model_flops=job.shape.flops(job.attended) * job.step_tokens * stage.size().updates_per_step,
        gpus=job.layout.ranks + engines,
    )


def _exact(config: RunConfig, arch: Architecture, parallel: ParallelConfig, number: int) -> RankBytes:
    """Return the static bytes of a rank, to the byte."""
    layout = parallel.layout
    chunks = stage_parameters(arch, layout, number, config.model.make_vocab_size_divisible_by)
    half, sharded = config.precision.dtype == "bf16", parallel.use_distributed_optimizer
    return rank_bytes(chunks, layout, half=half, sharded=sharded, stage=number)


def _memory(config: RunConfig, job: Job, number: int, exact: RankBytes, rl: RlStep | None) -> Memory:
    fitted = shipped("memory")
    peak = Peak(job, (number,), "allocated", "nemo_cascade")
    formula = MemoryFormula.of([job], [(number,)], ["allocated"])
    parts = {key: float(value[0, 0]) for key, value in formula.parts(fitted.factors).items()}
    whole = estimates(MEMORY, fitted, [peak])[0].value
    counted = float(np.exp(formula.values(fitted.factors))[0])
    dynamic = whole - counted  # what neighbours add: told as workspace
    outside = outside_bytes(job.hardware)
    told = {
        "weights": float(exact.weights),
        "gradients": float(exact.gradients),
        "optimizer": float(exact.optimizer),
        "activations": parts["activations"],
        "working": max(0.0, parts["working"] + parts["base"] + max(dynamic, -0.5 * parts["working"])),
        "logits": parts["logits"],
        "outside": outside,
    }
    resting = told["weights"] + told["gradients"] + told["optimizer"] + outside
    working = max(told["working"], told["logits"])
    phases = {"train": resting + told["activations"] + working}
    room = job.hardware.memory_gb * GB
    if job.hardware.generation == "cpu":
        room /= job.layout.ranks
    if rl is not None:
        phases["score"] = resting + working
        if rl.together:
            told["engine weights"] = rl.engine.stored
            told["engine cache"] = engine_cache(config, rl.engine)
            held = told["engine weights"] + told["engine cache"] + outside
            phases["generate"] = resting + held
            phases["sync"] = resting + held + _bucket(config)
            phases["train"] += held
            phases["score"] += held
    whose = f"pipeline stage {number + 1} of {job.layout.pp}" if job.layout.pp > 1 else "all ranks"
    return Memory(whose, told, phases, room)


def outside_bytes(hardware: HardwareConfig) -> float:
    """Return what a process holds beside tensors."""
    return OUTSIDE_GB.get(hardware.generation, _OUTSIDE_GPU_GB) * GB


def engine_share(config: RunConfig, hardware: HardwareConfig) -> float:
    """Return bytes that an engine takes for weights and cache on one GPU."""
    return config.rollout.gpu_memory_utilization * hardware.memory_gb * GB


def engine_cache(config: RunConfig, engine: Engine) -> float:
    """Return bytes of an engine's cache on one accelerator: what is left of its share, on a CPU what it is told."""
    if engine.hardware.generation == "cpu":
        return config.rollout.kv_cache_gib * 2**30 / config.rollout.tensor_parallel_size
    return max(0.0, engine_share(config, engine.hardware) - engine.stored)


def _engine(config: RunConfig, rl: RlStep) -> Memory:
    """Return an engine's memory; one that has no room for one of the longest sequences never starts."""
    engine = rl.engine
    weights, cache = engine.stored, engine_cache(config, engine)
    longest = engine.cache_bytes(config.rollout.max_model_len)
    if rl.together or longest > cache:
        on_cpu = engine.hardware.generation == "cpu"
        room = weights + cache if on_cpu else engine_share(config, engine.hardware)
        return Memory(
            "an engine's share", {"engine weights": weights, "engine cache": longest}, {"generate": weights + longest}, room
        )
    parts = {"engine weights": weights, "engine cache": cache, "outside": outside_bytes(engine.hardware)}
    total = sum(parts.values())
    room = engine.hardware.memory_gb * GB
    return Memory("engines", parts, {"generate": total, "sync": total + _bucket(config)}, room)


def _bucket(config: RunConfig) -> float:
    """Return bytes of the hand-over's bucket, of which sender and engine hold one each."""
    return 2.0 * config.rollout.weight_sync.bucket_mib * 2**20


def _seconds(job: Job, update: Estimate, rl: RlStep | None, *, ahead: bool) -> tuple[dict[str, float], Estimate]:
    if rl is None:
        return {"train": update.value}, update
    fitted = shipped("rl")
    formula = RlFormula.of([rl])
    phases = {key: float(value[0]) for key, value in formula.phases(fitted.factors).items()}
    step = estimates(RL, fitted, [rl])[0]
    scale = step.value / float(np.exp(formula.values(fitted.factors))[0])
    seconds = {key: value * scale for key, value in phases.items()}
    if ahead:  # Engines draw the next batch meanwhile; weights change when both are done.
        drawing = seconds.get("generate", 0.0) + seconds.get("score", 0.0)
        left = 1 - min(drawing, seconds.get("logprob", 0.0) + seconds["train"]) / step.value
        step = Estimate(step.value * left, step.low * left, step.high * left)
    return seconds, step
