"""What a model is made of, layer by layer: the one description that everything else works with. No torch here.

A layer is a mixer of tokens and an MLP. `Mixer` and `Mlp` are unions: what another family needs (a state space, a
mixture of experts, a layer with one of the two only) joins them as a dataclass of its own, and each reader says what it
can't work with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

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
class Dense:
    """down(activation(up x)), no biases.

    Attributes:
        width: rows of up, and of gate where there is one.
        activation: what lies between.
    """

    width: int
    activation: Activation = "swiglu"


Mixer = Attention
Mlp = Dense


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: norm, mixer, residual, norm, MLP, residual."""

    mixer: Mixer
    mlp: Mlp


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
    """One score per token: a reward model."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer.

    Attributes:
        family: name in `families.FAMILIES`, or where a user's own is: `my_package.my_module:Name`, `my_file.py:Name`.
        embedding: vocabulary and width.
        layers: from the embedding upwards.
        norm: of all layers, and behind the last.
        positions: how attention knows them.
        head: what is computed of the last layer's output.
        max_position_embeddings: longest sequence that the model was made for.
    """

    family: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: RmsNorm | LayerNorm
    positions: Rotary
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
    def tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return isinstance(self.head, LmHead) and self.head.tied

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        return isinstance(self.head, ScoreHead)

    def with_score_head(self) -> Architecture:
        """Return the same decoder with one score per token in place of logits."""
        return replace(self, head=ScoreHead())

    def padded_vocab_size(self, divisible_by: int, tensor_parallel: int) -> int:
        """Return the embedding's rows in Megatron: vocab_size rounded up to divisible_by x tensor_parallel."""
        multiple = divisible_by * tensor_parallel
        return -(-self.vocab_size // multiple) * multiple

    def padding_groups(self, tensor_parallel: int) -> int:
        """Return the most key/value groups that tensor parallelism adds to a layer."""
        return max(layer.mixer.padding_groups(tensor_parallel) for layer in self.kinds)

    def described(self) -> str:
        """Return the sizes in one line, for people."""
        heads = " or ".join(dict.fromkeys(f"{kind.mixer.heads}/{kind.mixer.groups}" for kind in self.kinds))
        return f"{self.family}, {len(self.layers)} layers, hidden {self.hidden_size}, heads {heads}"
