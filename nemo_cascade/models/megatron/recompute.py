"""Compute whole layers of a hybrid stack again in the backward pass; of each, its input alone is kept till then.

Megatron-Core's stack of half layers (0.16 to 0.19) runs its layers one by one whatever `recompute_granularity=full`
says; its stack of whole layers doesn't. What is computed again are the same kernels on the same numbers, so gradients
are equal to the bit.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


class _Recomputed:
    """A layer, of whose forward pass only the input is kept."""

    config: Any
    training: bool

    def __call__(self, hidden_states: Tensor, **others: Any) -> Any:
        """Return what the layer returns; `others`: nothing that is learnt through."""

        def run(hidden: Tensor) -> Any:
            # Hooks included: they tell routers of their micro-batch, and another one has been through meanwhile.
            return super(_Recomputed, self).__call__(hidden_states=hidden, **others)  # type: ignore[misc]

        from megatron.core.tensor_parallel import checkpoint, get_cuda_rng_tracker

        if not (self.training and torch.is_grad_enabled()):
            return run(hidden_states)
        if self.config.fp8:
            from megatron.core.extensions.transformer_engine import te_checkpoint

            return te_checkpoint(run, False, get_cuda_rng_tracker, None, hidden_states)
        return checkpoint(run, False, hidden_states)


@cache
def recomputed(layer: type) -> type:
    """Return the class of such layers of which only the input is kept."""
    return type(f"Recomputed{layer.__name__}", (_Recomputed, layer), {})
