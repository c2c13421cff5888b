"""The parameters of a rank, exactly: names, elements and bytes, and how Megatron's distributed optimizer cuts them.

Sizes come from the rules of the model's family, so this holds for whatever family has rules. Megatron lays parameters
into buffers from the last to the first, each from a multiple of 64 elements on, and pads a bucket so that every
data-parallel rank gets the same share of it (megatron.core.distributed.param_and_grad_buffer, 0.16).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_cascade.config.layout import Layout
from nemo_cascade.models.architecture import Architecture, LmHead
from nemo_cascade.models.rules import OUTPUT_LAYER, Rule, rules_by_name

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.*)")
# Megatron registers a layer's parts in this order; a module's own parameters come before those of its parts.
_ORDER = (
    "input_layernorm.", "self_attention.linear_proj", "self_attention.linear_qkv", "self_attention.q_",
    "self_attention.k_", "mixer.dt_bias", "mixer.A_log", "mixer.D", "mixer.in_proj", "mixer.conv1d", "mixer.norm",
    "mixer.out_proj", "norm.", "pre_mlp_layernorm.", "mlp.router", "mlp.experts", "mlp.linear_fc1", "mlp.linear_fc2",
    "mlp.shared_experts",
)  # fmt: skip
_ALIGNED, _BUCKET, _BUCKET_PER_RANK = 64, 40_000_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a rank.

    Attributes:
        name: in Megatron, layers counted over the whole model.
        elements: of the rank's shard.
        expert: a routed expert's: replicated over other ranks than the rest.
        fp32: kept in fp32 whatever the model's number format.
        shared: the embedding that first and last stage both hold, which gets a bucket of its own.
    """

    name: str
    elements: int
    expert: bool
    fp32: bool
    shared: bool = False


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Bytes of a rank between steps."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer


def stage_parameters(arch: Architecture, layout: Layout, stage: int, divisible_by: int) -> list[list[Parameter]]:
    """Return the parameters of a pipeline stage's rank by chunk, in the order in which Megatron registers them.

    Args:
        arch: the model.
        layout: its ranks.
        stage: place in the pipeline.
        divisible_by: the vocabulary is padded to a multiple of it and of TP.
    """
    sizes = layout.stage_layers(len(arch.layers))
    own = _layers_of(sizes, layout.vpp, stage)
    per_chunk = len(own) // layout.vpp
    found: list[tuple[tuple[int, ...], Parameter]] = []
    first, last = stage == 0, stage == layout.pp - 1
    for rule in {id(rule): rule for rule in rules_by_name(arch).values()}.values():
        name = rule.megatron[0]
        if name.endswith("expert_bias"):
            continue  # a buffer, not a parameter
        if match := _LAYER.fullmatch(name):
            number = int(match[1])
            if number not in own:
                continue
            place: tuple[int, ...] = (own[number] // per_chunk, 1, own[number], *_within(match[2]))
        elif name.startswith("embedding."):
            if not first:
                continue
            place = (0, 0)
        elif name == OUTPUT_LAYER:
            tied = isinstance(arch.head, LmHead) and arch.head.tied
            if not last or (tied and first):
                continue
            place = (layout.vpp - 1, 3)
        elif last:
            place = (layout.vpp - 1, 2)
        else:
            continue
        if rule.expert is not None and rule.expert >= _experts_of(arch) // layout.ep:
            continue
        found.append((place, _parameter(arch, rule, layout, divisible_by)))
    chunks: list[list[Parameter]] = [[] for _ in range(layout.vpp)]
    for place, parameter in sorted(found, key=lambda one: one[0]):
        chunks[place[0]].append(parameter)
    return chunks


def _layers_of(sizes: Sequence[int], vpp: int, stage: int) -> dict[int, int]:
    """Return the layers of a stage, each with its place among them: chunks are dealt out in turns."""
    numbers: list[int] = []
    begin = 0
    for _ in range(vpp):
        for at, size in enumerate(sizes):
            if at == stage:
                numbers += range(begin, begin + size // vpp)
            begin += size // vpp
    return {number: place for place, number in enumerate(numbers)}


def _within(rest: str) -> tuple[int, int, int]:
    part = next((number for number, prefix in enumerate(_ORDER) if rest.startswith(prefix)), len(_ORDER))
    expert = re.search(r"local_experts\.(\d+)\.", rest)
    inner = ("weight" not in rest) + 2 * ("linear_fc2" in rest)
    return part, int(expert[1]) if expert else 0, inner


def _experts_of(arch: Architecture) -> int:
    return 0 if arch.experts is None else arch.experts.count


def _parameter(arch: Architecture, rule: Rule, layout: Layout, divisible_by: int) -> Parameter:
    elements = sum(math.prod(shape) for shape in rule.hf.values())
    if rule.megatron[0].startswith("embedding.") or (rule.megatron[0] == OUTPUT_LAYER and not arch.scores):
        elements = arch.padded_vocab_size(divisible_by, layout.tp) * arch.hidden_size
    ways = {"tp": layout.tp, "etp": layout.etp}.get(rule.cut.axis or "", 1)
    if rule.cut.pads_groups and layout.tp > 1:
        elements = _with_padding(rule, layout.tp)
    ends = rule.megatron[0].startswith("embedding.") or rule.megatron[0] == OUTPUT_LAYER
    shared = ends and layout.pp > 1 and arch.tied
    return Parameter(rule.megatron[0], elements // ways, rule.expert is not None, rule.fp32, shared)


def _with_padding(rule: Rule, tp: int) -> int:
    """Return the elements of an attention's matrix with the zero groups that tensor parallelism adds."""
    attention = rule.cut.attention  # type: ignore[attr-defined]
    padded, own = attention.groups + attention.padding_groups(tp), attention.groups
    return int(sum(math.prod(shape) for shape in rule.hf.values()) * padded // own)


def rank_bytes(
    chunks: Sequence[Sequence[Parameter]],
    layout: Layout,
    *,
    half: bool,
    sharded: bool,
    stage: int,
    replica: int = 0,
) -> RankBytes:
    """Return bytes of weights, gradient buffers and optimizer of one rank.

    Args:
        chunks: of `stage_parameters`.
        layout: the ranks.
        half: the model is in bf16, its main copy in fp32; else it is in fp32 and is its own main copy.
        sharded: Megatron's distributed optimizer.
        stage: place in the pipeline: gradients of later stages are reduced in one piece.
        replica: the rank's place among its data-parallel replicas (of experts: among theirs, modulo their number).
    """
    weights = gradients = optimizer = 0
    for chunk in chunks:
        weights += sum(one.elements * (2 if half and not one.fp32 else 4) for one in chunk)
        for expert in (False, True):
            for fp32 in (False, True):
                group = [one for one in chunk if one.expert is expert and (one.fp32 and half) is fp32]
                ranks = layout.tp * layout.cp * layout.dp
                replicas = ranks // (layout.ep * layout.etp) if expert else layout.cp * layout.dp
                state = 12 if half and not fp32 else 8
                if not sharded:
                    elements = sum(one.elements for one in group)
                    gradients, optimizer = gradients + 4 * elements, optimizer + state * elements
                    continue
                for bucket in _buckets(group, replicas, layout, stage):
                    end = _padded(bucket[-1][1], math.lcm(replicas, 128))
                    gradients += 4 * end
                    optimizer += state * _shard(bucket, end, replicas, replica)
    return RankBytes(weights, gradients, optimizer)


def _buckets(group: Sequence[Parameter], replicas: int, layout: Layout, stage: int) -> list[list[tuple[int, int]]]:
    """Return each bucket's parameters as (begin, end) within it, filled from the last parameter on."""
    overlapped = layout.dp > 1 and stage == 0
    limit = max(_BUCKET, _BUCKET_PER_RANK * layout.dp * layout.cp) if overlapped else None
    buckets: list[list[tuple[int, int]]] = [[]]
    for one in reversed(group):
        if one.shared and buckets[-1]:
            buckets.append([])
        begin = _padded(buckets[-1][-1][1], _ALIGNED) if buckets[-1] else 0
        buckets[-1].append((begin, begin + one.elements))
        if one.shared or (limit is not None and begin + one.elements >= limit):
            buckets.append([])
    return [bucket for bucket in buckets if bucket]


def _shard(bucket: Sequence[tuple[int, int]], end: int, replicas: int, replica: int) -> int:
    """Return how many elements of parameters lie in a replica's share of a bucket."""
    share = end // replicas
    low, high = share * (replica % replicas), share * (replica % replicas + 1)
    return sum(max(0, min(stop, high) - max(start, low)) for start, stop in bucket)


def _padded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
