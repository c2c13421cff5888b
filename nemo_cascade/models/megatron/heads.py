"""Output layers other than the language model's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.models.megatron import backend

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region  # isort: skip


class ScalarHead(torch.nn.Module):
    """One score per token, in GPTModel's place for the output layer: r = w . h, no bias.

    Every tensor-parallel rank holds the whole head and computes the whole gradient, so nothing is reduced over them.

    Args:
        config: Megatron's TransformerConfig.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        shape, dtype = (1, config.hidden_size), config.params_dtype
        # NaN until `weights.load_weights` fills it, like all the others.
        self.weight = torch.nn.Parameter(torch.full(shape, math.nan, dtype=dtype, device=backend.device()))
        self.sequence_parallel = bool(config.sequence_parallel)

    def forward(
        self, hidden_T1H: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        """Return scores [T, 1, 1] in float32; the other arguments are GPTModel's and mean nothing here."""
        assert weight is None, "a scalar head is tied to nothing"
        if self.sequence_parallel:
            hidden_T1H = gather_from_sequence_parallel_region(hidden_T1H, tensor_parallel_output_grad=False)
        return torch.nn.functional.linear(hidden_T1H.float(), self.weight.float()), None
