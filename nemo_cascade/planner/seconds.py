"""Seconds of a training step: nominal terms times factors, the slowest resource of the slowest stage, the bubble.

T(stage) = (kernels^4 + launches^4 + gathers^4)^(1/4)      the slowest of the three, with a soft corner
step = micro_batches * max T + bubble * (pp - 1) / vpp * mean T + once
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_cascade.planner.job import Job
from nemo_cascade.planner.regression import Array
from nemo_cascade.planner.terms import micro_batch_terms, step_terms

# What a reader of kernel tables would say before any fit: one over the efficiency of FLOPs and bytes, seconds a block
# of launches. Fitted ones are in factors/train.json.
PRIORS: dict[str, float] = {
    "gemm hopper bf16": 1.45, "gemm hopper fp8": 1.45, "gemm blackwell bf16": 1.6, "gemm blackwell fp8": 1.7,
    "gemm blackwell mxfp8": 1.8, "gemm blackwell nvfp4": 2.5, "gemm ampere bf16": 1.6,
    "gemm cpu fp32": 1.5, "gemm cpu bf16": 1.5,
    "expert gemm hopper": 1.6, "expert gemm blackwell": 2.0, "expert gemm ampere": 2.0, "expert gemm cpu": 3.0,
    "expert gemm unaligned": 3.3, "expert weights": 1.5,
    "attention hopper": 2.2, "attention blackwell": 2.4, "attention ampere": 2.0, "attention cpu": 4.0,
    "attention latent": 2.5, "attention sinks": 10.0, "attention sinks fused": 4.0, "attention fp8": 2.0,
    "attention fa2 hopper": 2.9, "attention fa2 blackwell": 5.9, "attention fa3": 1.8,
    "scan hopper": 10.0, "scan blackwell": 25.0, "scan ampere": 10.0, "scan cpu": 10.0,
    "traffic": 6.0, "traffic experts": 6.0, "cast": 1.5, "logits": 10.0, "head": 1.5,
    "tp": 1.2, "cp": 0.3, "pp": 0.8, "ep fast": 1.4, "ep plain": 1.2, "ep deduplicated": 1.0, "ep overlapped": 0.4,
    "ep efa": 2.0, "dp": 0.2, "dp fast": 0.4, "gathers": 0.8, "gathers fast": 1.2, "optimizer": 1.3, "offload": 1.0,
    "block": 40e-6, "block experts": 200e-6, "block mamba": 100e-6, "block efa": 5e-3,
    "host block": 0.7e-3, "host block graphed": 0.12e-3, "host block mamba": 0.8e-3,
    "host experts": 5e-3, "host experts early": 9e-3, "host experts capped": 2.5e-3, "host experts graphed": 1e-3,
    "step": 15e-3, "bubble": 0.95,
}  # fmt: skip
NAMES = tuple(PRIORS)
_LOOSE = ("block", "host", "step", "offload", "cast", "ep efa")
_FLOPS = ("gemm", "expert gemm", "attention", "head", "scan")
_HOST = np.array([name.startswith("host") for name in NAMES])
_GATHERS = np.array([name.startswith("gathers") for name in NAMES])
_BUBBLE = NAMES.index("bubble")

PRIOR = np.log([PRIORS[name] for name in NAMES])
DEVIATION = np.array([0.8 if name.startswith(_LOOSE) else 0.35 for name in NAMES])
LEAST = np.array([np.log(1 / 0.9) if name.startswith(_FLOPS) else -np.inf for name in NAMES])
"""No kernel beats nine tenths of the data sheet's peak."""


@dataclass(frozen=True)
class Design:
    """Jobs as numbers; N jobs, 3 stages (first, middle, last), F terms.

    Attributes:
        stages: [N, 3, F] of a micro-batch.
        once: [N, F] of a step.
        micro_batches: [N]
        bubble: [N] micro-batches that the pipeline's filling and emptying takes.
        stages_between: [N] stages that the middle one stands for.
    """

    stages: Array
    once: Array
    micro_batches: Array
    bubble: Array
    stages_between: Array


def design(jobs: Sequence[Job]) -> Design:
    """Return the jobs' numbers."""
    at = {name: index for index, name in enumerate(NAMES)}
    stages, once = np.zeros((len(jobs), 3, len(at))), np.zeros((len(jobs), len(at)))
    for row, job in enumerate(jobs):
        for place, stage in enumerate(three_stages(job.layout.pp)):
            for name, value in micro_batch_terms(job, stage).items():
                stages[row, place, at[name]] = value
        for name, value in step_terms(job).items():
            once[row, at[name]] = value
    layouts = [job.layout for job in jobs]
    return Design(
        stages,
        once,
        np.array([float(job.micro_batches) for job in jobs]),
        np.array([(layout.pp - 1) / layout.vpp for layout in layouts]),
        np.array([max(0.0, layout.pp - 2) for layout in layouts]),
    )


def three_stages(pp: int) -> tuple[int, int, int]:
    """Return the first, a middle and the last stage."""
    return (0, pp // 2 if pp > 2 else 0, pp - 1)


def stage_seconds(numbers: Design, factors: Array) -> tuple[Array, Array, Array]:
    """Return seconds of (kernels, launches, gathers) of a micro-batch, each [N, 3]."""
    scale = np.exp(factors)
    kernels = numbers.stages @ np.where(_HOST | _GATHERS, 0.0, scale)
    return kernels, numbers.stages @ np.where(_HOST, scale, 0.0), numbers.stages @ np.where(_GATHERS, scale, 0.0)


@dataclass(frozen=True)
class StepFormula:
    """Seconds of steps as a function of the factors' logarithms (`regression.Formula`)."""

    numbers: Design

    def seconds(self, factors: Array) -> Array:
        """Return [N]."""
        kernels, launches, gathers = stage_seconds(self.numbers, factors)
        each = (kernels**4 + launches**4 + gathers**4) ** 0.25
        bubble = np.exp(factors[_BUBBLE]) * self.numbers.bubble * self._mean(each)
        once: Array = self.numbers.once @ np.exp(factors)
        return np.asarray(self.numbers.micro_batches * each.max(1) + bubble + once)

    def values(self, factors: Array) -> Array:
        """Return [N] logarithms of the seconds."""
        return np.asarray(np.log(self.seconds(factors)))

    def slope(self, factors: Array) -> Array:
        """Return [N, F], their derivatives."""
        numbers, scale = self.numbers, np.exp(factors)
        kernels, launches, gathers = stage_seconds(numbers, factors)
        each = (kernels**4 + launches**4 + gathers**4) ** 0.25
        which = np.where(_HOST, 1, np.where(_GATHERS, 2, 0))
        power = np.stack([kernels, launches, gathers], 2)[:, :, which] ** 3 / each[:, :, None] ** 3
        moved = power * numbers.stages * scale
        rows = np.arange(len(each))
        bubble = scale[_BUBBLE] * numbers.bubble
        change = numbers.micro_batches[:, None] * moved[rows, each.argmax(1)]
        change = change + bubble[:, None] * self._mean(moved) + numbers.once * scale
        change[:, _BUBBLE] += bubble * self._mean(each)
        return np.asarray(change / self.seconds(factors)[:, None])

    def _mean(self, each: Array) -> Array:
        """Return the mean over all stages of [N, 3, ...]."""
        between = self.numbers.stages_between.reshape(-1, *[1] * (each.ndim - 2))
        return np.asarray((each[:, 0] + each[:, 2] + between * each[:, 1]) / (2 + between))
