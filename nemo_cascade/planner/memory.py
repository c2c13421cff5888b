"""Peak memory of a training rank: counted bytes, corrected by factors that published peaks were fitted to.

peak = (static + base + kept + inputs + max(working, logits) + gathered) * overhead, of the fuller end of the pipeline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nemo_cascade.planner.job import Job
from nemo_cascade.planner.memory_terms import KINDS, dynamic_bytes, static_bytes
from nemo_cascade.planner.regression import Array, by_differences

Counted = Literal["allocated", "reserved"]
"""What a figure counts: tensors, or what PyTorch's allocator holds."""

PRIORS: dict[str, float] = {
    "attention": 1.0, "dense": 1.0, "experts": 1.1, "mamba": 1.0, "low": 0.95, "lora": 0.8, "per_op": 0.35,
    "megatron": 8.0, "fused": 4.0, "plain": 14.0, "chunked": 0.2,
    "working": 1.0, "gathered": 3.0, "base": 0.3e9, "reserved": 1.1,
}  # fmt: skip
NAMES = tuple(PRIORS)
LOSSES = ("megatron", "fused", "plain", "chunked")
PRIOR = np.log(list(PRIORS.values()))
_COUNTED = (*KINDS, "low", "fused", "working", "reserved")
DEVIATION = np.array([0.15 if name in _COUNTED else 0.5 for name in NAMES])
LEAST = np.full(len(NAMES), -np.inf)
_AT = {name: index for index, name in enumerate(NAMES)}
_FLAGS = ("low", "lora", "per_op")


@dataclass(frozen=True)
class MemoryFormula:
    """Peaks of jobs as a function of the factors' logarithms (`regression.Formula`); N jobs, S = 2 stages.

    Attributes:
        static: [N, S] bytes.
        kept: [N, S, 4] by kind of block.
        inputs: [N, S]
        working: [N, S, 4]
        logits: [N, S, 4] elements, by kind of loss.
        loss: [N, S] bytes of losses that are counted.
        gathered: [N, S]
        flags: [N, 3] low, lora, per_op.
        reserved: [N] whether the figure counts what the allocator holds.
    """

    static: Array
    kept: Array
    inputs: Array
    working: Array
    logits: Array
    loss: Array
    gathered: Array
    flags: Array
    reserved: Array

    @classmethod
    def of(cls, jobs: Sequence[Job], stages: Sequence[tuple[int, ...]], counted: Sequence[Counted]) -> MemoryFormula:
        """Count jobs; `stages`: those looked at, one or two of each."""
        shape = (len(jobs), 2)
        static, inputs, loss, gathered = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape)
        kept, working, logits = np.zeros((*shape, 4)), np.zeros((*shape, 4)), np.zeros((*shape, 4))
        flags = np.zeros((len(jobs), 3))
        for row, job in enumerate(jobs):
            low = job.precision in ("fp8", "mxfp8", "nvfp4")
            flags[row] = low, job.lora, "per_op" in job.recompute.modules
            for place in range(2):
                stage = stages[row][min(place, len(stages[row]) - 1)]
                dynamic = dynamic_bytes(job, stage)
                static[row, place] = static_bytes(job, stage).total
                kept[row, place] = [dynamic.kept[kind] for kind in KINDS]
                working[row, place] = [dynamic.working[kind] for kind in KINDS]
                inputs[row, place], gathered[row, place] = dynamic.inputs, dynamic.gathered
                loss[row, place] = dynamic.loss
                if job.loss != "blocks":
                    logits[row, place, LOSSES.index(job.loss)] = dynamic.logits
        held = np.array([float(one == "reserved") for one in counted])
        return cls(static, kept, inputs, working, logits, loss, gathered, flags, held)

    def parts(self, factors: Array) -> dict[str, Array]:
        """Return [N, S] bytes of each part."""
        scale = np.exp(factors)
        kinds = scale[[_AT[kind] for kind in KINDS]]
        flagged = np.exp(self.flags @ factors[[_AT[name] for name in _FLAGS]])[:, None]
        return {
            "static": self.static,
            "activations": self.kept @ kinds * flagged + self.inputs,
            "working": self.working @ kinds * scale[_AT["working"]],
            "logits": self.logits @ scale[[_AT[loss] for loss in LOSSES]] + self.loss,
            "gathered": self.gathered * scale[_AT["gathered"]],
            "base": np.full(self.static.shape, scale[_AT["base"]]),
        }

    def values(self, factors: Array) -> Array:
        """Return [N] logarithms of the peaks."""
        parts = self.parts(factors)
        total = sum(parts.values()) - np.minimum(parts["working"], parts["logits"])
        return np.asarray(np.log(total.max(1)) + self.reserved * factors[_AT["reserved"]])

    def slope(self, factors: Array) -> Array:
        """Return [N, F], their derivatives, by differences."""
        return by_differences(self.values, factors)
