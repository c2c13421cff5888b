"""Memory of a rank and of an engine, by part and by phase, beside what the accelerator has."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.fitted import estimates, shipped
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.memory import MemoryFormula
from nemo_cascade.planner.quantity import MEMORY, Peak
from nemo_cascade.planner.ranks.parameters import RankBytes, rank_bytes, stage_parameters

GB = 1e9
OUTSIDE_GB = {"cpu": 0.6}
"""Held beside tensors: on a GPU context, NCCL and first kernels' workspaces; on a CPU the imported libraries,
Ray and the threads' own heaps (a rank of nano: 0.66 GB as it begins, of nano_hybrid: 0.75 GB at most)."""
_OUTSIDE_GPU_GB = 3.5  # of a job of several GPUs; mlc-ai/pith-train tools/memory_estimator @889a4088: 0.5 + 1.0 + 3.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest rank of one pipeline stage, or of an engine, by part and by phase.

    Attributes:
        whose: in words.
        parts: by name: weights, gradients, optimizer, activations, working, logits, outside; reference weights; engine
            weights and cache where engines share the GPU.
        phases: by name: train, and generate, score, sync where there are engines.
        room: that the accelerator has for the rank.
        on_cpu: parts are of processes of one machine.
    """

    whose: str
    parts: Mapping[str, float]
    phases: Mapping[str, float]
    room: float
    on_cpu: bool = False

    @property
    def peak(self) -> float:
        """Bytes of the largest phase."""
        return max(self.phases.values())

    @property
    def of_engines(self) -> float:
        """Bytes of it that engines hold."""
        return sum(size for name, size in self.parts.items() if name.startswith("engine"))

    @property
    def trained(self) -> float:
        """Bytes that a training rank holds at most: on a GPU of tensors alone, on a CPU of its process."""
        return self.phases["train"] - self.of_engines - (0.0 if self.on_cpu else self.parts["outside"])

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
class Beside:
    """What a stage's ranks hold beside what they train.

    Attributes:
        engine: at work for the stage; None where none is.
        together: it shares the ranks' GPUs.
        rollouts: the stage scores responses and hands its weights over.
        reference: a frozen copy of the policy in the ranks' own layout.
    """

    engine: Engine | None = None
    together: bool = False
    rollouts: bool = False
    reference: bool = False


def rank_memory(
    config: RunConfig, arch: Architecture, parallel: ParallelConfig, job: Job, number: int, beside: Beside
) -> Memory:
    """Return the memory of a rank of one pipeline stage."""
    fitted, exact = shipped("memory"), _exact(config, arch, parallel, number)
    peak = Peak(job, (number,), "allocated", "nemo_cascade")
    formula = MemoryFormula.of([job], [(number,)], ["allocated"])
    parts = {key: float(value[0, 0]) for key, value in formula.parts(fitted.factors).items()}
    whole = estimates(MEMORY, fitted, [peak])[0].value
    counted = float(np.exp(formula.values(fitted.factors))[0])
    dynamic = whole - counted  # what neighbours add: told as workspace
    told = {
        "weights": float(exact.weights),
        "gradients": float(exact.gradients),
        "optimizer": float(exact.optimizer),
        "activations": parts["activations"],
        "working": max(0.0, parts["working"] + parts["base"] + max(dynamic, -0.5 * parts["working"])),
        "logits": parts["logits"],
        "outside": outside_bytes(job.hardware),
    }
    if beside.reference:
        told["reference weights"] = float(exact.weights)
    resting = sum(told[name] for name in ("weights", "gradients", "optimizer", "outside"))
    resting += told.get("reference weights", 0.0)
    if beside.engine is not None and beside.together:
        told["engine weights"] = beside.engine.stored
        told["engine cache"] = engine_cache(config, beside.engine)
        told["engine outside"] = outside_bytes(job.hardware)
        resting += told["engine weights"] + told["engine cache"] + told["engine outside"]
    at_work = max(told["working"], told["logits"])
    phases = {"train": resting + told["activations"] + at_work}
    if beside.rollouts:
        phases |= {"score": resting + at_work, "generate": resting, "sync": resting + _bucket(config)}
    room = job.hardware.memory_gb * GB
    if job.hardware.generation == "cpu":
        room /= job.layout.ranks
    whose = f"pipeline stage {number + 1} of {job.layout.pp}" if job.layout.pp > 1 else "all ranks"
    return Memory(whose, told, phases, room, job.hardware.generation == "cpu")


def _exact(config: RunConfig, arch: Architecture, parallel: ParallelConfig, number: int) -> RankBytes:
    """Return the static bytes of a rank, to the byte."""
    layout = parallel.layout
    chunks = stage_parameters(arch, layout, number, config.model.make_vocab_size_divisible_by)
    half, sharded = config.precision.dtype == "bf16", parallel.use_distributed_optimizer
    return rank_bytes(chunks, layout, half=half, sharded=sharded, stage=number)


def engine_memory(config: RunConfig, beside: Beside) -> Memory | None:
    """Return an engine's own memory; one that has no room for one of the longest sequences never starts."""
    if (engine := beside.engine) is None:
        return None
    weights, cache = engine.stored, engine_cache(config, engine)
    longest = engine.cache_bytes(config.rollout.max_model_len)
    if beside.together or longest > cache:
        on_cpu = engine.hardware.generation == "cpu"
        room = weights + cache if on_cpu else engine_share(config, engine.hardware)
        parts = {"engine weights": weights, "engine cache": longest}
        return Memory("an engine's share, at least", parts, {"generate": weights + longest}, room)
    parts = {"engine weights": weights, "engine cache": cache, "outside": outside_bytes(engine.hardware)}
    total = sum(parts.values())
    phases = {"generate": total, "sync": total + _bucket(config)}
    return Memory("engines", parts, phases, engine.hardware.memory_gb * GB)


def engine_share(config: RunConfig, hardware: HardwareConfig) -> float:
    """Return bytes that an engine takes for weights and cache on one GPU."""
    return config.rollout.gpu_memory_utilization * hardware.memory_gb * GB


def engine_cache(config: RunConfig, engine: Engine) -> float:
    """Return bytes of an engine's cache on one accelerator: what is left of its share, on a CPU what it is told."""
    if engine.hardware.generation == "cpu":
        return config.rollout.kv_cache_gib * 2**30 / config.rollout.tensor_parallel_size
    return max(0.0, engine_share(config, engine.hardware) - engine.stored)


def outside_bytes(hardware: HardwareConfig) -> float:
    """Return what a process holds beside tensors."""
    return OUTSIDE_GB.get(hardware.generation, _OUTSIDE_GPU_GB) * GB


def _bucket(config: RunConfig) -> float:
    """Return bytes of the hand-over's bucket, of which sender and engine hold one each."""
    return 2.0 * config.rollout.weight_sync.bucket_mib * 2**20
