"""What a planner has to know of a decoder: its blocks, and each block's parameters, FLOPs and kept tensors.

Units: parameters in elements, FLOPs and bytes of one token. A layer is the tuple of its blocks: a mixer, an MLP, or one
of the two only. FLOPs count a multiplication and an addition; causal attention is counted once (half of the square).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["attention", "dense", "experts", "mamba"]

_HALF = 2  # bytes of bf16


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one token forward.

    Attributes:
        matrices: dense matrix products.
        experts: grouped products of the routed experts.
        mixing: attention, or a state space's scan.
    """

    matrices: float
    experts: float = 0.0
    mixing: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of one token that forward keeps for backward (flash attention, no dropout).

    Attributes:
        spread: cut by sequence parallelism only.
        cut: cut by tensor parallelism.
        activation: of `spread` and `cut`, what recomputing the MLP's activation spares.
    """

    spread: float
    cut: float
    activation: float = 0.0


class Block(Protocol):
    """One mixer or MLP with the norm before it."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""

    @property
    def matrices(self) -> int:
        """Parameters, but for routed experts and norms."""

    @property
    def experts(self) -> int:
        """Parameters of the routed experts."""

    def forward(self, context: float) -> Flops:
        """Return FLOPs of a token that is one of a document of `context` tokens."""

    def kept(self, low: bool) -> Kept:
        """Return bytes kept; `low`: inputs of matrices are kept in eight bits."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Grouped-query attention; `window` limits what a token sees (0: everything before it); `sinks`: learned logits."""

    hidden: int
    heads: int
    groups: int
    head_dim: int
    window: int = 0
    sinks: bool = False
    kind: Kind = "attention"
    experts: int = 0

    @property
    def matrices(self) -> int:
        """See `Block`."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.groups)

    @property
    def kv(self) -> float:
        """Elements of K and V that one token leaves behind."""
        return 2 * self.groups * self.head_dim

    @property
    def shared_by(self) -> int:
        """Over how many tensor-parallel ranks K and V are cut at most."""
        return self.groups

    def forward(self, context: float) -> Flops:
        """See `Block`."""
        seen = min(2 * self.window, context) if self.window else context
        return Flops(2 * self.matrices, mixing=4 * self.head_dim * self.heads * seen / 2)

    def kept(self, low: bool) -> Kept:
        """See `Block`: norm's input and output, Q, K, V, output, its sums; the output once more in eight bits."""
        size = 1 if low else _HALF
        q, kv = self.heads * self.head_dim, self.groups * self.head_dim
        return Kept((2 + size) * self.hidden, _HALF * (2 * q + 2 * kv) + size * q * low + 4 * self.heads)


@dataclass(frozen=True, slots=True)
class LatentAttentionBlock:
    """Multi-head latent attention (arXiv 2405.04434); `query_rank` 0: queries aren't compressed."""

    hidden: int
    heads: int
    query_rank: int
    rank: int
    rope: int
    nope: int
    value: int
    kind: Kind = "attention"
    experts: int = 0
    window: int = 0
    sinks: bool = False

    @property
    def matrices(self) -> int:
        """See `Block`."""
        wide = self.heads * (self.rope + self.nope)
        query = self.query_rank * (self.hidden + wide) if self.query_rank else self.hidden * wide
        latent = self.hidden * (self.rank + self.rope) + self.rank * self.heads * (self.nope + self.value)
        return query + latent + self.heads * self.value * self.hidden

    @property
    def kv(self) -> float:
        """Elements that one token leaves behind: the latent and the shared rotary key."""
        return self.rank + self.rope

    @property
    def shared_by(self) -> int:
        """The latent isn't cut."""
        return 1

    def forward(self, context: float) -> Flops:
        """See `Block`."""
        return Flops(2 * self.matrices, mixing=2 * (self.rope + self.nope + self.value) * self.heads * context / 2)

    def kept(self, low: bool) -> Kept:
        """See `Block`."""
        size, head = (1 if low else _HALF), self.nope + self.rope
        core = _HALF * self.heads * (2 * head + 2 * self.value) + size * low * self.heads * self.value + 4 * self.heads
        return Kept((2 + size) * self.hidden + 2 * _HALF * (self.query_rank + self.rank + self.rope), core)


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """An MLP; `gated`: SwiGLU, three matrices."""

    hidden: int
    width: int
    gated: bool = True
    kind: Kind = "dense"
    experts: int = 0

    @property
    def matrices(self) -> int:
        """See `Block`."""
        return (3 if self.gated else 2) * self.hidden * self.width

    def forward(self, context: float) -> Flops:
        """See `Block`."""
        return Flops(2 * self.matrices)

    def kept(self, low: bool) -> Kept:
        """See `Block`: norm's input and output, both products, the activation."""
        size = 1 if low else _HALF
        after = size * self.width
        return Kept((2 + size) * self.hidden, _HALF * self.width * (2 if self.gated else 1) + after, after)


@dataclass(frozen=True, slots=True)
class ExpertsBlock:
    """A router, routed experts of which a token visits `topk`, shared ones, maybe in a narrower latent width."""

    hidden: int
    count: int
    topk: int
    width: int
    shared: int = 0
    latent: int = 0
    gated: bool = True
    kind: Kind = "experts"

    @property
    def matrices(self) -> int:
        """See `Block`."""
        fed = (3 if self.gated else 2) * self.hidden * self.shared
        return self.hidden * self.count + fed + 2 * self.hidden * self.latent

    @property
    def experts(self) -> int:
        """See `Block`."""
        return self.count * (3 if self.gated else 2) * (self.latent or self.hidden) * self.width

    def forward(self, context: float) -> Flops:
        """See `Block`."""
        return Flops(2 * self.matrices, 2 * self.topk * self.experts / self.count)

    def kept(self, low: bool) -> Kept:
        """See `Block`: of each of `topk` copies input, products, activation and output; of the shared ones as dense."""
        size, products = (1 if low else _HALF), 2 if self.gated else 1
        wide = self.latent or self.hidden
        copy = size * wide + _HALF * self.width * products + size * self.width + _HALF * wide
        routed = self.topk * copy + 12 * self.count + 2 * _HALF * self.latent
        shared = _HALF * self.shared * products + size * self.shared
        return Kept((2 + size) * self.hidden + routed, shared, self.topk * size * self.width)


@dataclass(frozen=True, slots=True)
class MambaBlock:
    """Mamba-2 (arXiv 2405.21060): `heads` of `head_dim`, state `state`, `groups` of B and C."""

    hidden: int
    heads: int
    head_dim: int
    state: int
    groups: int
    kind: Kind = "mamba"
    experts: int = 0

    @property
    def inner(self) -> int:
        """Width of x and z."""
        return self.heads * self.head_dim

    @property
    def matrices(self) -> int:
        """See `Block`."""
        return self.hidden * (3 * self.inner + 2 * self.groups * self.state + self.heads)

    def forward(self, context: float) -> Flops:
        """See `Block`: 7 FLOPs an element of the state."""
        return Flops(2 * self.matrices, mixing=7 * self.inner * self.state)

    def kept(self, low: bool) -> Kept:
        """See `Block`: projections, what the convolution gives, gate and output; states once a chunk of 128."""
        size, both = (1 if low else _HALF), 2 * self.groups * self.state
        rows = _HALF * (2 * self.inner + both + self.heads) + _HALF * (self.inner + both) + 2 * _HALF * self.inner
        return Kept((2 + size) * self.hidden, rows + 4 * self.inner * self.state / 128)


Layer = tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder.

    Attributes:
        name: for tables.
        hidden: width of the residual stream.
        layers: from the embedding upwards.
        vocabulary: rows of the embedding, padding included.
        tied: the output layer is the embedding.
        positions: learned positions.
        predicted: layers behind the last that predict further tokens (MTP, arXiv 2412.19437).
    """

    name: str
    hidden: int
    layers: tuple[Layer, ...]
    vocabulary: int
    tied: bool = False
    positions: int = 0
    predicted: int = 0

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in order."""
        return tuple(block for layer in self.layers for block in layer)

    @property
    def family(self) -> Literal["dense", "experts", "hybrid"]:
        """Which sort of decoder it is."""
        kinds = {block.kind for block in self.blocks}
        return "hybrid" if "mamba" in kinds else "experts" if "experts" in kinds else "dense"

    @property
    def further(self) -> Layer:
        """The blocks of one layer that predicts a further token: attention and the last MLP's kind."""
        mixers = [block for block in self.blocks if block.kind == "attention"]
        mlps = [block for block in self.blocks if block.kind in ("dense", "experts")]
        return (mixers[-1], mlps[-1])

    @property
    def parameters(self) -> tuple[int, int, int]:
        """Parameters of (blocks but for routed experts, routed experts, embedding and output)."""
        dense = sum(block.matrices + block.hidden for block in self.blocks)
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden
        return dense, sum(block.experts for block in self.blocks), tables

    def flops(self, context: float, backward: float = 2.0, *, predicts: bool = True) -> float:
        """Return model FLOPs of a token, forward and backward: what published TFLOP/s divide by.

        Args:
            context: tokens of its document.
            backward: of it in forwards.
            predicts: count the layers that predict further tokens.
        """
        total = 2.0 * self.hidden * self.vocabulary
        for block in self.blocks:
            one = block.forward(context)
            total += one.matrices + one.experts + one.mixing
        if self.predicted and predicts:
            parts = [block.forward(context) for block in self.further]
            each = sum(one.matrices + one.experts + one.mixing for one in parts)
            total += self.predicted * (each + 2.0 * self.hidden * self.vocabulary + 4.0 * self.hidden**2)
        return (1 + backward) * total


def shape_from_sizes(name: str, sizes: Mapping[str, Any]) -> Shape:
    """Return the shape that a table's sizes describe.

    Args:
        name: for tables.
        sizes: hidden, layers, heads, vocabulary, and what the model has of: groups, head_dim, width, gated, tied,
            experts {count, topk, width, shared, latent}, dense_layers, latent_attention [query_rank, rank, rope, nope,
            value], window (of every other attention), mamba [heads, head_dim, state, groups], pattern (a letter a
            block: A attention, D dense, E experts, M Mamba), positions, predicted.
    """
    hidden, heads = sizes["hidden"], sizes["heads"]
    gated = sizes.get("gated", True)
    groups, head_dim = sizes.get("groups", heads), sizes.get("head_dim", 128)
    window = sizes.get("window", 0)
    dense: Block = DenseBlock(hidden, sizes.get("width", 0), gated)
    mixers: list[Block] = [AttentionBlock(hidden, heads, groups, head_dim, 0, bool(window))]
    if window:
        mixers.insert(0, AttentionBlock(hidden, heads, groups, head_dim, window, True))
    if latent := sizes.get("latent_attention"):
        mixers = [LatentAttentionBlock(hidden, heads, *latent)]
    experts: Block = ExpertsBlock(hidden, **sizes["experts"], gated=gated) if "experts" in sizes else dense
    layers: list[Layer] = []
    if pattern := sizes.get("pattern"):
        letters: dict[str, Block] = {"A": mixers[-1], "D": dense, "E": experts}
        if "mamba" in sizes:
            letters["M"] = MambaBlock(hidden, *sizes["mamba"])
        layers = [(letters[letter],) for letter in pattern]
    for number in range(0 if layers else sizes["layers"]):
        mlp = dense if number < sizes.get("dense_layers", 0) else experts
        layers.append((mixers[number % len(mixers)], mlp))
    return Shape(
        name,
        hidden,
        tuple(layers),
        sizes["vocabulary"],
        sizes.get("tied", False),
        sizes.get("positions", 0),
        sizes.get("predicted", 0),
    )
