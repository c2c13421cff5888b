"""What is predicted: four quantities, each a formula, its factors' prior, and what figures of it have in common."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.planner import decode, memory, rollouts, seconds
from nemo_cascade.planner.decode import Served, ServedFormula
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.memory import Counted, MemoryFormula
from nemo_cascade.planner.regression import Array, Formula, Neighbours, Part
from nemo_cascade.planner.rollouts import RlFormula, RlStep
from nemo_cascade.planner.seconds import StepFormula


@dataclass(frozen=True, slots=True)
class Peak:
    """A peak of memory that is asked for: whose, of which pipeline stages, counting what, in which software."""

    job: Job
    stages: tuple[int, ...]
    counted: Counted
    software: str
    small: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity.

    Attributes:
        name: of its file of factors.
        unit: of its values.
        names: of the factors.
        prior: [F] their logarithms before any figure.
        deviation: [F] how far they may be off.
        least: [F] what none falls below.
        parts: of the covariance of figures.
        formula: of subjects.
        labels: of a subject.
        place: of a subject.
        noise: of a figure of such a subject.
    """

    name: str
    unit: str
    names: tuple[str, ...]
    prior: Array
    deviation: Array
    least: Array
    parts: list[Part]
    formula: Callable[[Sequence[Any]], Formula]
    labels: Callable[[Any], Mapping[str, str]]
    place: Callable[[Any], list[float]]
    noise: Callable[[Any], float]

    def neighbours(self, subjects: Sequence[Any]) -> Neighbours:
        """Return what the subjects have in common."""
        rows = [self.labels(subject) for subject in subjects]
        labels = {name: [row[name] for row in rows] for name in rows[0]}
        return Neighbours(labels, np.array([self.place(subject) for subject in subjects]))

    def noises(self, subjects: Sequence[Any]) -> Array:
        """Return [M]."""
        return np.array([self.noise(subject) for subject in subjects])


def _job_labels(job: Job) -> dict[str, str]:
    return {
        "model": job.shape.name, "machine": job.hardware.name, "precision": job.precision, "task": job.task,
        "software": job.software.name, "family": job.shape.family,
    }  # fmt: skip


def _job_place(job: Job) -> list[float]:
    """Return where a job lies: logarithms of its sizes over the length at which jobs stay alike."""
    layout, two = job.layout, math.log2
    graphed = float(bool(job.software.graph))
    return [
        two(job.tokens) / 2, two(layout.tp) / 1.5, two(layout.pp) / 1.5, two(layout.cp) / 1.5, two(layout.ep) / 2,
        two(layout.ranks) / 3, two(job.sequence) / 2, two(job.shape.hidden) / 1.5, float(job.recompute.whole), graphed,
        two(job.micro_batches) / 3,
    ]  # fmt: skip


TRAIN = Quantity(
    name="train",
    unit="seconds of a training step",
    names=seconds.NAMES,
    prior=seconds.PRIOR,
    deviation=seconds.DEVIATION,
    least=seconds.LEAST,
    parts=[
        Part(0.25, {"software": 0}),
        Part(0.10, {"machine": 0}),
        Part(0.06, {"machine": 0, "precision": 0, "family": 0.3}),
        Part(0.05, {"software": 0, "machine": 0, "family": 0.3}),
        Part(0.08, {"model": 0, "software": 0.3, "task": 0.5}),
        Part(0.07, {"model": 0, "software": 0.3, "task": 0.5}, near=True),
        Part(0.04, {"model": 0, "machine": 0, "software": 0, "task": 0}),
        Part(0.15, {"family": 0, "software": 0, "task": 0}),
    ],
    formula=lambda jobs: StepFormula(seconds.design(jobs)),
    labels=_job_labels,
    place=_job_place,
    noise=lambda job: 0.06 if job.software.tuned else 0.2,
)


def _peak_labels(peak: Peak) -> dict[str, str]:
    job = peak.job
    return {
        "model": "toy" if peak.small else job.shape.name, "software": peak.software, "family": job.shape.family,
        "precision": job.precision, "whole": str(job.recompute.whole), "toy": str(peak.small),
    }  # fmt: skip


MEMORY = Quantity(
    name="memory",
    unit="bytes at the peak of the fullest rank",
    names=memory.NAMES,
    prior=memory.PRIOR,
    deviation=memory.DEVIATION,
    least=memory.LEAST,
    parts=[
        Part(0.08, {"software": 0}),
        Part(0.06, {"software": 0, "family": 0, "whole": 0.5}),
        Part(0.05, {"family": 0, "precision": 0, "toy": 0}),
        Part(0.05, {"model": 0, "software": 0.3}),
        Part(0.06, {"software": 0}, near=True),
    ],
    formula=lambda peaks: MemoryFormula.of(
        [peak.job for peak in peaks], [peak.stages for peak in peaks], [peak.counted for peak in peaks]
    ),
    labels=_peak_labels,
    place=lambda peak: _job_place(peak.job),
    noise=lambda peak: 0.12 if peak.small else 0.04,
)


def _served_labels(case: Served) -> dict[str, str]:
    engine = case.engine
    return {
        "model": engine.shape.name, "machine": engine.hardware.name, "family": engine.shape.family,
        "bytes": str(engine.weight_bytes), "software": case.software,
    }  # fmt: skip


def _served_place(case: Served) -> list[float]:
    engine, two = case.engine, math.log2
    return [two(case.prompt) / 2, two(case.output) / 2, two(engine.tp) / 1.5, two(engine.ep) / 1.5]


DECODE = Quantity(
    name="decode",
    unit="output tokens a second and GPU of a full engine",
    names=decode.NAMES,
    prior=decode.PRIOR,
    deviation=decode.DEVIATION,
    least=decode.LEAST,
    parts=[
        Part(0.12, {"model": 0}),
        Part(0.10, {"machine": 0, "bytes": 0, "family": 0.3}),
        Part(0.10, {"family": 0}, near=True),
        Part(0.08, {"software": 0}),
    ],
    formula=ServedFormula.of,
    labels=_served_labels,
    place=_served_place,
    noise=lambda case: 0.08,
)


def _rl_labels(step: RlStep) -> dict[str, str]:
    return {
        "model": step.job.shape.name, "machine": step.job.hardware.name, "family": step.job.shape.family,
        "together": str(step.together), "low": str(step.low), "software": step.software,
    }  # fmt: skip


RL = Quantity(
    name="rl",
    unit="seconds of a step of reinforcement learning",
    names=rollouts.NAMES,
    prior=rollouts.PRIOR,
    deviation=rollouts.DEVIATION,
    least=rollouts.LEAST,
    parts=[
        Part(0.15, {"model": 0}),
        Part(0.08, {"machine": 0}),
        Part(0.08, {"model": 0, "together": 0}),
        Part(0.10, {"software": 0}),
    ],
    formula=RlFormula.of,
    labels=_rl_labels,
    place=lambda step: [math.log2(step.mean) / 2],
    noise=lambda step: 0.1,
)

QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in (TRAIN, MEMORY, DECODE, RL)}
