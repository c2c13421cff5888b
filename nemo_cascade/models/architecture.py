"""What a model is made of, layer by layer: the one description that everything else works with. No torch here.

A layer is a mixer of tokens (attention, a state space) and an MLP (dense, a mixture of experts), or one of the two
alone. `Mixer` and `Mlp` are unions: what another family needs joins them as a dataclass of its own, and each reader
says what it can't work with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

Activation = Literal["swiglu", "relu2"]
"""swiglu: silu(gate x) * up x, of two matrices; relu2: relu(up x)^2, of one."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal attention of query heads over key/value groups, rotary positions.

    Attributes:
        heads: query heads.
        groups: key/value heads.
        head_dim: width of one head.
        qk_norm: RMSNorm over each query and key head (Qwen3).
        qkv_bias: bias in the query, key and value projections (Qwen2).
    """

    heads: int
    groups: int
    head_dim: int
    qk_norm: bool = False
    qkv_bias: bool = False

    @property
    def heads_per_group(self) -> int:
        """Query heads of one key/value head."""
        return self.heads // self.groups

    def padding_groups(self, tensor_parallel: int) -> int:
        """Return how many key/value groups tensor parallelism adds so that its ranks get equal shares.

        Such a group has zero weights, so its output and its gradients are zero and stay so: nothing is computed
        differently, some of it in vain.
        """
        return -self.groups % tensor_parallel


@dataclass(frozen=True, slots=True)
class Mamba:
    """Mamba-2 (arXiv 2405.21060): a causal convolution, then a state space whose decay is a scalar per head.

    Attributes:
        heads: of the state space.
        head_dim: channels of one head.
        groups: groups of heads that share input and output projections of the state.
        state: width of the state of one channel.
        kernel: tokens that the convolution sees.
        chunk: tokens that are computed at once; another number gives the same function.
    """

    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int = 4
    chunk: int = 128

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Channels of the convolution: the input x, and B and C of each group."""
        return self.inner + 2 * self.groups * self.state

    @property
    def segments(self) -> tuple[int, ...]:
        """Rows of the input projection by what they make: gate z, input x, B, C, time step dt."""
        return self.inner, self.inner, self.groups * self.state, self.groups * self.state, self.heads


@dataclass(frozen=True, slots=True)
class Dense:
    """down(activation(up x)), no biases.

    Attributes:
        width: rows of up, and of gate where there is one.
        activation: what lies between.
    """

    width: int
    activation: Activation = "swiglu"


@dataclass(frozen=True, slots=True)
class Router:
    """Which experts a token goes to, and how their outputs are weighted; always computed in fp32.

    Attributes:
        score: of the logits. softmax: the chosen logits' softmax weighs them; sigmoid: the chosen scores over their sum
            do (arXiv 2412.19437, equations 13-16).
        bias: a buffer is added to the scores for the choice alone, which training moves by the experts' load
            (arXiv 2408.15664); only with sigmoid.
        scaling: multiplies the weights.
    """

    score: Literal["softmax", "sigmoid"]
    bias: bool = False
    scaling: float = 1.0


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: the sum of the chosen ones' outputs by weight, and of an expert that all tokens share.

    Attributes:
        count: experts to choose from.
        chosen: experts of one token.
        width: of one expert, as `Dense.width`.
        router: chooses.
        shared_width: of the shared expert; 0: there is none.
        activation: of all of them.
    """

    count: int
    chosen: int
    width: int
    router: Router
    shared_width: int = 0
    activation: Activation = "swiglu"


Mixer = Attention | Mamba
Mlp = Dense | Experts


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: norm, mixer, residual, norm, MLP, residual; without the half that is None."""

    mixer: Mixer | None
    mlp: Mlp | None

    def padding_groups(self, tensor_parallel: int) -> int:
        """Return how many key/value groups tensor parallelism adds to its attention, if it has one."""
        return self.mixer.padding_groups(tensor_parallel) if isinstance(self.mixer, Attention) else 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """One row per token.

    Attributes:
        vocab_size: rows in the HF files, without Megatron's padding.
        hidden_size: width of the residual stream.
    """

    vocab_size: int
    hidden_size: int


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Root-mean-square norm, of every layer and behind the last."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer norm with a bias, its weight stored less one (Megatron's `layernorm_zero_centered_gamma`)."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's rotary frequency scaling (transformers, `modeling_rope_utils`, rope_type llama3)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by a factor (arXiv 2306.15595; rope_type linear)."""

    factor: float


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071; rope_type yarn): slow frequencies stretched, fast ones kept, a ramp between them.

    Attributes:
        factor: by which the slow ones are stretched.
        original_max_position_embeddings: length of pre-training.
        beta_fast: turns in that length above which a frequency is kept.
        beta_slow: turns below which it is stretched whole.
        truncate: the ramp begins and ends at whole dimensions.
        attention_factor: of queries and keys, each; None: 1 + 0.1 ln(factor), section 3.4.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    @property
    def temper(self) -> float:
        """What queries and keys are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


Scaling = Llama3Scaling | LinearScaling | YarnScaling


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions.

    Attributes:
        theta: base of the wavelengths.
        scaling: what stretches them, if anything.
        fraction: of each head, its first part, that turns.
    """

    theta: float
    scaling: Scaling | None = None
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class LmHead:
    """A logit per vocabulary entry; `tied`: its matrix is the embedding."""

    tied: bool


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """A few outputs per token: a reward model.

    Attributes:
        names: of the outputs.
        weights: of each in the score.
    """

    names: tuple[str, ...] = ("reward",)
    weights: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer.

    Attributes:
        family: name in `families.FAMILIES`, or where a user's own is: `my_package.my_module:Name`, `my_file.py:Name`.
        embedding: vocabulary and width.
        layers: from the embedding upwards.
        norm: of all layers, and behind the last.
        positions: how attention knows them; None: it doesn't (a state space below it does).
        head: what is computed of the last layer's output.
        max_position_embeddings: longest sequence that the model was made for.
    """

    family: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: RmsNorm | LayerNorm
    positions: Rotary | None
    head: LmHead | ScoreHead
    max_position_embeddings: int

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding in the HF files."""
        return self.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.embedding.hidden_size

    @property
    def kinds(self) -> tuple[Layer, ...]:
        """The layers that differ, each once; a single one where all are alike."""
        return tuple(dict.fromkeys(self.layers))

    @property
    def attention(self) -> Attention | None:
        """The attention of all layers that have one; None where no layer has.

        Raises:
            ValueError: it isn't the same everywhere, which Megatron's one configuration per model can't say.
        """
        return _only([kind.mixer for kind in self.kinds if isinstance(kind.mixer, Attention)], "attention")

    @property
    def mamba(self) -> Mamba | None:
        """The state space of all layers that have one; otherwise as `attention`."""
        return _only([kind.mixer for kind in self.kinds if isinstance(kind.mixer, Mamba)], "state space")

    @property
    def dense(self) -> Dense | None:
        """The dense MLP of all layers that have one; otherwise as `attention`."""
        return _only([kind.mlp for kind in self.kinds if isinstance(kind.mlp, Dense)], "MLP")

    @property
    def experts(self) -> Experts | None:
        """The mixture of experts of all layers that have one; otherwise as `attention`."""
        return _only([kind.mlp for kind in self.kinds if isinstance(kind.mlp, Experts)], "mixture of experts")

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """The layers that have a mixture of experts, counted from 0."""
        return tuple(number for number, layer in enumerate(self.layers) if isinstance(layer.mlp, Experts))

    @property
    def hybrid(self) -> bool:
        """Whether layers of several kinds follow one another, each of them one half of a layer."""
        return any(kind.mixer is None or kind.mlp is None for kind in self.kinds)

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return isinstance(self.head, LmHead) and self.head.tied

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        return isinstance(self.head, ScoreHead)

    def with_score_head(self, head: ScoreHead | None = None) -> Architecture:
        """Return the same decoder with a reward model's head, by default of one output, in place of logits."""
        return replace(self, head=head or ScoreHead())

    def padded_vocab_size(self, divisible_by: int, tensor_parallel: int) -> int:
        """Return the embedding's rows in Megatron: vocab_size rounded up to divisible_by x tensor_parallel."""
        multiple = divisible_by * tensor_parallel
        return -(-self.vocab_size // multiple) * multiple

    def padding_groups(self, tensor_parallel: int) -> int:
        """Return the most key/value groups that tensor parallelism adds to a layer."""
        return max(layer.padding_groups(tensor_parallel) for layer in self.kinds)

    def described(self) -> str:
        """Return the sizes in one line, for people."""
        attentions = [kind.mixer for kind in self.kinds if isinstance(kind.mixer, Attention)]
        parts = [f"{self.family}, {len(self.layers)} layers, hidden {self.hidden_size}"]
        if attentions:
            parts.append("heads " + " or ".join(dict.fromkeys(f"{mixer.heads}/{mixer.groups}" for mixer in attentions)))
        if self.mamba is not None:
            parts.append(f"Mamba heads {self.mamba.heads}")
        if self.experts is not None:
            parts.append(f"{self.experts.chosen} of {self.experts.count} experts")
        return ", ".join(parts)


_Part = TypeVar("_Part")


def _only(found: list[_Part], what: str) -> _Part | None:
    different = list(dict.fromkeys(found))
    if len(different) > 1:
        raise ValueError(f"layers differ in their {what}: {different}")
    return different[0] if different else None
