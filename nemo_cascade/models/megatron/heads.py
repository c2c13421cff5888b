"""What stands in the place of the output layer: nothing yet of a language model's, a reward model's score.

Shapes: T tokens of this rank, H hidden width.
"""

import math
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.models.megatron import backend

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.tensor_parallel import (  # isort: skip
    ColumnParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


class DeferredOutput(ColumnParallelLinear):  # type: ignore[misc]
    """A language model's output layer that hands on what goes into it: logits are made where they are used up.

    Log-probabilities of long packs never need all logits at once (`training.logprobs`).
    """

    @classmethod
    def take_over(cls, layer: ColumnParallelLinear) -> None:
        """Make a model's output layer one of these, with its weight, as its checkpoints and ties know it."""
        assert type(layer) is ColumnParallelLinear
        layer.__class__ = cls

    def forward(
        self, hidden_T1H: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        """Return the hidden states of all tensor-parallel ranks' tokens, whose gradients will be added up over them."""
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden_T1H, tensor_parallel_output_grad=True), None
        return copy_to_tensor_model_parallel_region(hidden_T1H), None


def deferred_weight(chunk: Any) -> Tensor | None:
    """Return the weight [V, H] of a chunk's deferred output layer, also where it is the embedding's; None without."""
    bare = getattr(chunk, "module", chunk)
    layer = getattr(bare, "output_layer", None)
    if not isinstance(layer, DeferredOutput):
        return None
    weight: Tensor = layer.weight if layer.weight is not None else bare.shared_embedding_or_output_weight()
    return weight


class ScoreLayer(torch.nn.Module):
    """A reward model's outputs of each token, in GPTModel's place for the output layer: p = W h, no bias.

    Every tensor-parallel rank holds the whole head and computes the whole gradient, so nothing is reduced over them.

    Args:
        config: Megatron's TransformerConfig.
        outputs: K.
    """

    def __init__(self, config: Any, outputs: int) -> None:
        super().__init__()
        shape, dtype = (outputs, config.hidden_size), config.params_dtype
        # NaN until `weights.load_weights` fills it, like all the others.
        self.weight = torch.nn.Parameter(torch.full(shape, math.nan, dtype=dtype, device=backend.device()))
        self.sequence_parallel = bool(config.sequence_parallel)

    def forward(
        self, hidden_T1H: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        """Return outputs [T, 1, K] in float32; the other arguments are GPTModel's and mean nothing here."""
        assert weight is None, "a score head is tied to nothing"
        if self.sequence_parallel:
            hidden_T1H = gather_from_sequence_parallel_region(hidden_T1H, tensor_parallel_output_grad=False)
        return torch.nn.functional.linear(hidden_T1H.float(), self.weight.float()), None
