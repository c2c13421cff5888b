"""A training job as the planner reads it: one value, be it of a run's configuration or of a published row."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.layout import Layout
from nemo_cascade.planner.shape import Block, Shape

Precision = Literal["fp32", "bf16", "fp8", "mxfp8", "nvfp4"]
Loss = Literal["megatron", "fused", "chunked", "plain", "blocks"]

Chunk = Mapping[Block, int]
"""Blocks of a part of the model, and how often each is there."""


@dataclass(frozen=True, slots=True)
class Recompute:
    """What forward doesn't keep.

    Attributes:
        whole: whole layers are computed again.
        layers: of each pipeline stage, so many whole layers (0: all).
        modules: parts that are: mlp, moe, moe_act, layernorm, core_attn, mla_up_proj; per_op: torchtitan's choice.
        offloaded: what whole layers keep goes to the host.
    """

    whole: bool = False
    layers: int = 0
    modules: frozenset[str] = frozenset()
    offloaded: bool = False

    def share(self, block: Block) -> float:
        """Return the share of a block's forward that runs a second time."""
        if self.whole:
            return 1.0
        if "per_op" in self.modules:
            return 0.4
        if (block.kind == "dense" and "mlp" in self.modules) or (block.kind == "experts" and "moe" in self.modules):
            return 1.0
        return 0.25 if block.kind == "attention" and "mla_up_proj" in self.modules else 0.0


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes of a parameter.

    Attributes:
        weight: of the copy that forward reads.
        gradient: of the accumulated gradient.
        moments: of fp32 main copy and Adam's moments together.
        sharded: the optimizer's are cut over data-parallel ranks.
        offloaded: the optimizer's are on the host.
        whole: ZeRO-3 or FSDP: everything is cut over all ranks, blocks are gathered when they are due.
        gathers_once: ZeRO-2: gathered for the forward pass only.
    """

    weight: float = 2.0
    gradient: float = 4.0
    moments: float = 12.0
    sharded: bool = True
    offloaded: bool = False
    whole: bool = False
    gathers_once: bool = False


@dataclass(frozen=True, slots=True)
class Software:
    """What a job's software does that changes its seconds.

    Attributes:
        name: who ran it; factors are kept by name.
        release: of it.
        graph: what CUDA graphs hold: "" nothing, attention, router, full.
        dispatcher: of experts' tokens: plain, deduplicated (one copy a node), overlapped with computation.
        capped: tokens beyond an expert's capacity are dropped, so shapes are fixed.
        kernel: of attention: cudnn, fa2, fa3, fp8.
        efa: the network is AWS's.
        tuned: somebody looked for its best settings.
    """

    name: str = "Megatron-Bridge"
    release: str = ""
    graph: Literal["", "attention", "router", "full"] = ""
    dispatcher: Literal["plain", "deduplicated", "overlapped"] = "plain"
    capped: bool = False
    kernel: Literal["cudnn", "fa2", "fa3", "fp8"] = "cudnn"
    efa: bool = False
    tuned: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """A training job.

    Attributes:
        shape: the model.
        hardware: the machine.
        layout: of the ranks.
        sequence: tokens of a packed sequence.
        micro_batch: sequences of a micro-batch.
        micro_batches: of a replica in a step.
        context: tokens of the document that a token lies in, averaged over tokens (packed: sum of squares / sum).
        precision: of the matrix products.
        task: pretrain, sft, lora, rl.
        recompute: what is computed twice.
        storage: bytes of a parameter.
        loss: how logits become a loss: chunked never has all of them; blocks: as this package does it.
        software: what runs it.
        dealt: layers of each chunk in order where they aren't dealt evenly, () where they are.
    """

    shape: Shape
    hardware: HardwareConfig
    layout: Layout
    sequence: int
    micro_batch: int = 1
    micro_batches: int = 1
    context: float = 0.0
    precision: Precision = "bf16"
    task: str = "pretrain"
    recompute: Recompute = field(default_factory=Recompute)
    storage: Storage = field(default_factory=Storage)
    loss: Loss = "megatron"
    software: Software = field(default_factory=Software)
    dealt: tuple[int, ...] = ()

    @property
    def lora(self) -> bool:
        """Whether only adapters are trained."""
        return self.task == "lora"

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch on a rank, before tensor parallelism."""
        return self.micro_batch * self.sequence / self.layout.cp

    @property
    def step_tokens(self) -> float:
        """Tokens of a step over all ranks."""
        return float(self.micro_batch * self.micro_batches * self.layout.dp * self.sequence)

    @property
    def attended(self) -> float:
        """Mean length of a token's document."""
        return self.context or float(self.sequence)

    @property
    def replicas(self) -> int:
        """Ranks that the optimizer of dense parameters is cut over."""
        return self.layout.dp * self.layout.cp

    @property
    def expert_replicas(self) -> int:
        """Ranks that the optimizer of expert parameters is cut over."""
        layout = self.layout
        return max(1, layout.tp * layout.cp * layout.dp // (layout.ep * layout.etp))

    def chunks(self, stage: int) -> list[Chunk]:
        """Return the parts that a pipeline stage holds, in the order in which they are computed."""
        return list(_dealt(self)[stage])


_CUTS: dict[tuple[Shape, int, int, tuple[int, ...]], list[list[Chunk]]] = {}


def _dealt(job: Job) -> list[list[Chunk]]:
    """Return the chunks of every stage; kept, for one model is cut the same way over and over."""
    pp, vpp = job.layout.pp, job.layout.vpp
    key = (job.shape, pp, vpp, job.dealt)
    if key not in _CUTS:
        layers, parts = job.shape.layers, pp * vpp
        counts = job.dealt
        if not counts:
            edges = [round(number * len(layers) / parts) for number in range(parts + 1)]
            counts = tuple(after - before for before, after in pairwise(edges))
        stages: list[list[Chunk]] = [[] for _ in range(pp)]
        begin = 0
        for number, count in enumerate(counts):
            some = layers[begin : begin + count]
            stages[number % pp].append(Counter(block for layer in some for block in layer))
            begin += count
        _CUTS[key] = stages
    return _CUTS[key]


def dealt_layers(text: str) -> tuple[int, ...]:
    """Return how many decoder layers each chunk of Megatron's layout string holds.

    Args:
        text: `E` embedding, `t` a decoder layer, `m` MTP, `L` loss, `|` between chunks, `*n` and `(...)*n` repeat.
    """
    text = re.sub(r"[,\s]", "", text)
    while match := re.search(r"\(([^()]*)\)\*(\d+)", text):
        text = text[: match.start()] + match[1] * int(match[2]) + text[match.end() :]
    while match := re.search(r"([A-Za-z|])\*(\d+)", text):
        text = text[: match.start()] + match[1] * int(match[2]) + text[match.end() :]
    return tuple(chunk.count("t") for chunk in text.split("|"))
