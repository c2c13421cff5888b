"""What a stage of a run needs and how long it takes: memory by part and phase, seconds by phase, whether it fits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.planner.fitted import Estimate, estimates, shipped
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.quantity import RL, TRAIN
from nemo_cascade.planner.ranks.memory import Beside, Memory, engine_memory, rank_memory
from nemo_cascade.planner.regression import Figures
from nemo_cascade.planner.rollouts import RlFormula, RlStep
from nemo_cascade.planner.run_jobs import engine_of, job_for, rl_step_of


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
    together = config.rollout.placement == "colocated"
    beside = Beside(engine_of(config, stage, job), together, rl is not None, stage.keeps_reference())
    memory = tuple(
        rank_memory(config, arch, parallel, job, number, beside)
        for number in sorted({0, job.layout.pp // 2, job.layout.pp - 1})
    )
    seconds, step = _seconds(job, update, rl, ahead=stage.steps_ahead() > 0)
    engines = 0 if together or beside.engine is None else beside.engine.tp * config.rollout.num_engines
    return StagePlan(
        name=name,
        job=job,
        memory=memory,
        engine=engine_memory(config, beside),
        seconds=seconds,
        step=step,
        steps=stage.size().steps,
        model_flops=job.shape.flops(job.attended) * job.step_tokens * stage.size().updates_per_step,
        gpus=job.layout.ranks + engines,
    )


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
