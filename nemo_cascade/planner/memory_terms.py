"""Bytes of a training rank, thing by thing, as counting tensors gives them; `memory` corrects and adds them up.

Between steps: weights, gradients, optimizer. During one: what forward keeps for backward of the micro-batches in flight
(1F1B, interleaved: arXiv 2104.04473 section 2.2), one layer's working set, the logits of the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_cascade.planner.job import Chunk, Job
from nemo_cascade.planner.shape import Block, Kind

KINDS: tuple[Kind, ...] = ("attention", "dense", "experts", "mamba")
BLOCK, GPU_COPY, CPU_COPY = 2**26, 2**25, 2**20
"""Logits, and float32 copies of them, that this package's loss has at once (`training.logprobs`, which has them as its
own: a planner imports nothing that trains)."""
_ADAPTERS = 0.001
"""Share of the parameters that adapters have; their optimizer is small beside what is counted."""


@dataclass(frozen=True, slots=True)
class Static:
    """Bytes of a rank between steps."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Bytes of a rank in a step, before any factor.

    Attributes:
        kept: for backward, by kind of block.
        inputs: of recomputed layers.
        working: of the layer that is computed, by kind of block.
        logits: elements of logits at the loss.
        loss: bytes of a loss whose blocks are counted one by one.
        gathered: of blocks gathered at once.
    """

    kept: Mapping[Kind, float]
    inputs: float
    working: Mapping[Kind, float]
    logits: float
    loss: float
    gathered: float


def static_bytes(job: Job, stage: int) -> Static:
    """Return bytes of a stage's weights, gradients and optimizer, counted from its shape."""
    shape, layout, storage = job.shape, job.layout, job.storage
    dense, expert, norms = 0.0, 0.0, 0.0
    for chunk in job.chunks(stage):
        for block, count in chunk.items():
            dense += count * block.matrices
            expert += count * block.experts
            norms += count * shape.hidden
    first, last = stage == 0, stage == layout.pp - 1
    tables = float(shape.vocabulary * shape.hidden * (int(first) + int(last and not (shape.tied and layout.pp == 1))))
    tables += shape.positions * shape.hidden * first
    if shape.predicted and last:
        dense += shape.predicted * (sum(block.matrices for block in shape.further) + 2.0 * shape.hidden**2)
        expert += shape.predicted * sum(block.experts for block in shape.further)
        tables += shape.vocabulary * shape.hidden * (layout.pp > 1)
    if storage.whole:
        share = (dense + tables + norms + expert) / (layout.ranks / layout.pp)
        trained = 0.0 if job.lora else 1.0
        moments = 0.0 if storage.offloaded else (storage.moments - storage.weight) * trained
        return Static(storage.weight * share, storage.gradient * share * trained, moments * share)
    own, routed = (dense + tables) / layout.tp + norms, expert / (layout.ep * layout.etp)
    if job.lora:
        return Static(storage.weight * (own + routed), 4 * _ADAPTERS * own, 12 * _ADAPTERS * own)
    replicas, expert_replicas = (job.replicas, job.expert_replicas) if storage.sharded else (1, 1)
    moments = 0.0 if storage.offloaded else storage.moments
    return Static(
        storage.weight * (own + routed),
        storage.gradient * (own + routed),
        moments * (own / replicas + routed / expert_replicas),
    )


def dynamic_bytes(job: Job, stage: int) -> Dynamic:
    """Return bytes of a stage above the static ones."""
    shape, layout, tokens = job.shape, job.layout, job.tokens
    chunks = job.chunks(stage)
    kept, inputs = dict.fromkeys(KINDS, 0.0), 0.0
    for number in range(flying(job, stage)):
        chunk = chunks[(number // layout.pp) % layout.vpp] if layout.vpp > 1 else chunks[0]
        share = _layers_kept_whole(job, chunk)
        for block, count in chunk.items():
            kept[block.kind] += count * share * tokens * kept_bytes(job, block)
        if job.recompute.whole and not job.recompute.offloaded:
            again = _layers(job, chunk) * (1 - share)
            inputs += 2 * shape.hidden * again * tokens / (layout.tp if layout.sp else 1)
    logits = loss = 0.0
    if stage == layout.pp - 1:
        logits = shape.vocabulary / layout.tp * tokens * (1.5 if shape.predicted else 1.0)
        loss = _loss_in_blocks(job) if job.loss == "blocks" else 0.0
    gathered = 0.0
    if job.storage.whole:
        largest = max(block.matrices + block.experts for block in shape.blocks) + shape.blocks[0].matrices
        gathered = 2 * max(largest, shape.vocabulary * shape.hidden) / layout.tp
    return Dynamic(kept, inputs, _working(job, chunks), logits, loss, gathered)


def _loss_in_blocks(job: Job) -> float:
    """Return bytes of `training.logprobs`: last states and their gradient, a block of logits, the weight's gradient."""
    rows, size = job.shape.vocabulary / job.layout.tp, 4 if job.precision == "fp32" else 2
    states = 2 * size * job.shape.hidden * job.tokens
    elements = rows * job.tokens
    copied = CPU_COPY if job.hardware.generation == "cpu" else GPU_COPY
    block = size * min(elements, BLOCK) + 3 * 4 * min(elements, copied)
    return states + block + (4 if size == 4 else 4 + 2 + 2) * rows * job.shape.hidden


def flying(job: Job, stage: int) -> int:
    """Return how many chunks' activations a stage holds at once."""
    pp, vpp, micro = job.layout.pp, job.layout.vpp, job.micro_batches
    return min(pp - stage, micro) if vpp == 1 else min(2 * (pp - stage - 1) + (vpp - 1) * pp + 1, micro * vpp)


def kept_bytes(job: Job, block: Block, *, all_of_it: bool = False) -> float:
    """Return what a block keeps of one token on a rank; `all_of_it`: as if nothing were recomputed."""
    layout, modules = job.layout, job.recompute.modules
    low = job.precision in ("fp8", "mxfp8", "nvfp4")
    size, kept = (1 if low else 2), block.kept(low)
    spread, cut = kept.spread, kept.cut
    if job.precision == "fp32":
        spread, cut, size = 2 * spread, 2 * cut, 4
    if not all_of_it:
        if (block.kind == "experts" and "moe" in modules) or (block.kind == "dense" and "mlp" in modules):
            spread, cut = (2 + (size if block.kind == "dense" else 0)) * block.hidden, 0.0
        elif "moe_act" in modules and block.kind == "experts":
            spread -= kept.activation
        if "layernorm" in modules:
            spread -= size * block.hidden
    return spread / (layout.tp if layout.sp else 1) + cut / layout.tp


def _layers(job: Job, chunk: Chunk) -> float:
    """Return how many layers a chunk has."""
    blocks = len(job.shape.blocks) / len(job.shape.layers)
    return sum(chunk.values()) / blocks


def _layers_kept_whole(job: Job, chunk: Chunk) -> float:
    """Return the share of a chunk's layers that isn't recomputed."""
    if not job.recompute.whole:
        return 1.0
    layers = _layers(job, chunk)
    return max(0.0, layers - job.recompute.layers) / layers if job.recompute.layers and layers else 0.0


def _working(job: Job, chunks: list[Chunk]) -> dict[Kind, float]:
    """Return the largest layer's tensors while it is computed, by kind."""
    whole = job.recompute.whole or "per_op" in job.recompute.modules
    most: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
    halves = len(job.shape.blocks) == len(job.shape.layers)
    for chunk in chunks:
        one: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        for block, count in chunk.items():
            each = kept_bytes(job, block, all_of_it=whole) * job.tokens
            if halves:  # A layer is one block, and they differ by far.
                most = max(most, dict.fromkeys(KINDS, 0.0) | {block.kind: each}, key=_sum)
            else:
                one[block.kind] += each * count / max(1.0, _layers(job, chunk))
        most = max(most, one, key=_sum)
    return most


def _sum(parts: Mapping[Kind, float]) -> float:
    return sum(parts.values())
