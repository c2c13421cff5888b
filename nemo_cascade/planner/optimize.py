"""Search layouts: all that the model and the machine allow, those that fit, the fastest few, and why.

A candidate is a job with another layout, recomputation or micro-batch; its memory and seconds are predicted as for any
plan. Of layouts whose seconds differ by less than the ranges can tell, the simpler one goes first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nemo_cascade.config.layout import Layout
from nemo_cascade.planner.fitted import Estimate, estimates, shipped
from nemo_cascade.planner.job import Job, Recompute
from nemo_cascade.planner.memory import MemoryFormula
from nemo_cascade.planner.quantity import TRAIN
from nemo_cascade.planner.seconds import StepFormula, design, stage_seconds
from nemo_cascade.planner.shape import AttentionBlock, ExpertsBlock, MambaBlock

_SHARE = 0.92
"""Of the memory that a layout may need: fragmentation and what isn't counted take the rest."""
_LEAST_TOKENS = 512
"""Of a sequence on a context-parallel rank: shorter ones spend their time on the ring."""
_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout.

    Attributes:
        job: with it.
        step: seconds of an update.
        peak: bytes of the fullest rank.
        reason: what bounds it.
    """

    job: Job
    step: Estimate
    peak: float
    reason: str


def search(
    job: Job,
    gpus: int,
    *,
    micro_batches: Sequence[int] = (1, 2, 4),
    allowed: Callable[[Layout], bool] = lambda layout: True,
    extra: float = 0.0,
    most: int = 5,
    ran: Job | None = None,
) -> list[Candidate]:
    """Return the fastest layouts that fit, the fastest first.

    Args:
        job: what is trained, in any layout: its step's tokens are kept; beside none and all, what it computes again
            is tried.
        gpus: ranks.
        micro_batches: sequences of a micro-batch to try.
        allowed: what the model's implementation can be cut into.
        extra: bytes that something else holds on each accelerator (engines, context).
        most: how many are returned.
        ran: a job that is known to have run: what is predicted to need no more than it fits as well.
    """
    sequences = round(job.step_tokens / job.sequence)
    made = [
        one
        for layout in _layouts(job, gpus)
        if sequences % layout.dp == 0 and allowed(layout)
        for size in micro_batches
        for one in _jobs(job, layout, sequences // layout.dp, size)
    ]
    peaks = _peaks(made)
    room = max([_SHARE * job.hardware.memory_gb * 1e9 - extra, *_peaks([] if ran is None else [ran])])
    fitting = [(one, peak) for one, peak in zip(made, peaks, strict=True) if peak <= room]
    # Of each cut what computes least again: `_jobs` yields it first.
    lightest: dict[tuple[Layout, int], tuple[Job, float]] = {}
    for one, peak in fitting:
        lightest.setdefault((one.layout, one.micro_batch), (one, peak))
    chosen = list(lightest.values())
    if not chosen:
        return []
    rough = StepFormula(design([one for one, _ in chosen])).seconds(shipped("train").factors)
    order = np.argsort(rough)[: 12 * most]
    finalists = [chosen[index] for index in order]
    steps = estimates(TRAIN, shipped("train"), [one for one, _ in finalists])
    found = [Candidate(one, step, peak, _reason(one)) for (one, peak), step in zip(finalists, steps, strict=True)]
    return sorted(found, key=lambda one: one.step.value)[:most]


def _layouts(job: Job, gpus: int) -> Iterator[Layout]:
    shape, hardware = job.shape, job.hardware
    attention = [block for block in shape.blocks if isinstance(block, AttentionBlock)]
    experts = [block for block in shape.blocks if isinstance(block, ExpertsBlock)]
    mamba = any(isinstance(block, MambaBlock) for block in shape.blocks)
    widest = min([hardware.nvlink_domain, 8, *(block.groups for block in attention)])
    layers = len(shape.layers)
    for tp in (size for size in _SIZES if size <= widest):
        for pp in (size for size in _SIZES if size <= layers and gpus % (tp * size) == 0):
            for cp in _SIZES:
                if gpus % (tp * pp * cp) or (cp > 1 and (mamba or job.sequence / cp < _LEAST_TOKENS)):
                    continue
                dp = gpus // (tp * pp * cp)
                for vpp in _parts(layers, pp, mamba):
                    for ep in _expert_sizes(experts, tp * cp * dp):
                        etp = 1 if ep > 1 else tp if experts else 1
                        yield Layout(tp=tp, pp=pp, vpp=vpp, cp=cp, dp=dp, ep=ep, etp=etp, sp=tp > 1)


def _parts(layers: int, pp: int, mamba: bool) -> list[int]:
    """Return into how many parts a pipeline stage may be cut."""
    if pp == 1 or mamba:
        return [1]
    if layers % pp:
        return [size for size in (1, 2, 4, 8) if pp * size <= layers]
    return [size for size in range(1, layers // pp + 1) if (layers // pp) % size == 0 and size <= 12]


def _expert_sizes(experts: Sequence[ExpertsBlock], ranks: int) -> list[int]:
    if not experts:
        return [1]
    return [size for size in _SIZES if experts[0].count % size == 0 and ranks % size == 0]


def _jobs(job: Job, layout: Layout, sequences: int, size: int) -> Iterator[Job]:
    if sequences % size:
        return
    count = sequences // size
    if layout.vpp > 1 and count % layout.pp:
        return
    for recompute in dict.fromkeys((Recompute(), job.recompute, Recompute(whole=True))):
        yield replace(job, layout=layout, micro_batch=size, micro_batches=count, recompute=recompute, dealt=())


def _peaks(jobs: Sequence[Job]) -> list[float]:
    """Return bytes of each job's fullest rank."""
    if not jobs:
        return []
    stages = [tuple(sorted({0, job.layout.pp - 1})) for job in jobs]
    formula = MemoryFormula.of(jobs, stages, ["reserved"] * len(jobs))
    return [float(value) for value in np.exp(formula.values(shipped("memory").factors))]


def _reason(job: Job) -> str:
    """Say what its slowest stage waits for, and what the pipeline's bubble takes."""
    numbers, factors = design([job]), shipped("train").factors
    kernels, launches, gathers = (part.max() for part in stage_seconds(numbers, factors))
    bound = max((kernels, "kernels"), (launches, "the host's launches"), (gathers, "gathers"))[1]
    total = float(StepFormula(numbers).seconds(factors)[0])
    bubble = (job.layout.pp - 1) / job.layout.vpp * max(kernels, launches, gathers) / total
    return f"bound by {bound}" + (f", bubble {bubble:.0%}" if job.layout.pp > 1 else "")
