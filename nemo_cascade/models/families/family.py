"""What a family of models says of itself: the whole of what this package has to know of one. Import-light: no torch.

A family is one file: it reads an HF config (and refuses what it can't represent, all of it at once), writes it back,
and lists its rules: each parameter's name in Megatron, its tensors and their shapes in HF, and its cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nemo_cascade.models.architecture import Architecture, ScoreHead
from nemo_cascade.models.cuts import Cut, Shape, Vocab, Whole

OUTPUT_LAYER = "output_layer.weight"
"""The parameter in Megatron that a head is."""
FINAL_NORM = ("decoder.final_norm.weight", "decoder.final_layernorm.weight")
"""The norm behind the last layer, in Megatron's GPT model and in its hybrid one."""


Limit = tuple[str, Callable[[Any], bool], str]
"""A field of an HF config, whether a value of it will do (None: it isn't there), and the limit in words."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One parameter, or a buffer that is stored like one.

    Attributes:
        megatron: its names in Megatron, which differ by layer implementation; layers are counted over the whole model.
        hf: the HF tensors that it is made of, in order, and their shapes.
        cut: how it is cut.
        expert: of an expert: which of its layer's it belongs to, from 0; it is then held by one rank of the axis `ep`,
            and replicated over `edp` in place of `dp`.
        fp32: it is kept so whatever the model's dtype, by the trainer and by the engine.
    """

    megatron: tuple[str, ...]
    hf: Mapping[str, Shape]
    cut: Cut
    expert: int | None = None
    fp32: bool = False


class Family(ABC):
    """A family of models. Its own class is named in a configuration by where it is; it is made without arguments."""

    model_type: ClassVar[str]
    """HF's name of it."""
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    """HF's name of the embedding."""
    final_norm: ClassVar[str] = "model.norm.weight"
    """HF's name of the norm behind the last layer."""
    output: ClassVar[str] = "lm_head.weight"
    """HF's name of the output layer."""
    score: ClassVar[str] = "score.weight"
    """HF's name of a reward model's head."""

    @abstractmethod
    def read(self, config: Mapping[str, Any]) -> Architecture:
        """Return the architecture that an HF config describes.

        Raises:
            ModelError: listing every field that is missing, malformed or unsupported, with its value.
        """

    @abstractmethod
    def write(self, arch: Architecture) -> dict[str, Any]:
        """Return the HF config of an architecture, JSON-like: `read` gives the same architecture back."""

    @abstractmethod
    def layer_rules(self, arch: Architecture, number: int) -> Iterator[Rule]:
        """Yield the rules of one layer, counted from 0."""

    def final_norm_rules(self, arch: Architecture) -> Iterator[Rule]:
        """Yield the rules of the norm behind the last layer."""
        yield Rule(FINAL_NORM, {self.final_norm: (arch.hidden_size,)}, Whole())

    def hf_name(self, engine: str) -> str:
        """Return the HF name of what vLLM calls so; parts that it stacks keep the stack's own last names."""
        return engine

    def rules(self, arch: Architecture) -> Iterator[Rule]:
        """Yield every parameter's rule, in HF's order; a tied output layer is made of the embedding."""
        matrix = (arch.vocab_size, arch.hidden_size)
        yield Rule(("embedding.word_embeddings.weight",), {self.embedding: matrix}, Vocab(arch.vocab_size))
        for number in range(len(arch.layers)):
            yield from self.layer_rules(arch, number)
        yield from self.final_norm_rules(arch)
        if isinstance(arch.head, ScoreHead):
            yield Rule((OUTPUT_LAYER,), {self.score: (len(arch.head.names), arch.hidden_size)}, Whole())
        else:
            name = self.embedding if arch.head.tied else self.output
            yield Rule((OUTPUT_LAYER,), {name: matrix}, Vocab(arch.vocab_size))
