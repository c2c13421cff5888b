"""What rounding alone does to a model's results: the same model with every layer's output rounded once more.

Two sound programs for one model add, multiply and round in another order. How far that drives their log-probs apart
depends on dtype, depth and weights, so it is measured: each layer's output is moved at random, by as much as one more
rounding may do, and the distance to the undisturbed result is what to expect of a second implementation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def rounded_anew(chunks: Sequence[Any], seed: int = 0) -> Iterator[None]:
    """Within, move every output of the embedding and of the decoder layers by up to half a unit in its last place.

    Args:
        chunks: of the model, wrapped or not.
        seed: of the noise. It is the same on all tensor-parallel ranks, which hold the same output.
    """
    layers: dict[int, torch.nn.Module] = {}
    for bare in (getattr(chunk, "module", chunk) for chunk in chunks):
        layers |= {layer.layer_number: layer for layer in bare.decoder.layers}
        if bare.pre_process:
            layers[0] = bare.embedding
    hooks = [layer.register_forward_hook(_Noise(seed * 10_000 + number)) for number, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Noise:
    """A forward hook that disturbs a module's output, or the first of its outputs."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __call__(self, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        return (self._moved(output[0]), *output[1:]) if isinstance(output, tuple) else self._moved(output)

    def _moved(self, output: torch.Tensor) -> torch.Tensor:
        if self._generator is None:
            self._generator = torch.Generator(output.device).manual_seed(self._seed)
        noise = torch.rand(output.shape, generator=self._generator, device=output.device, dtype=torch.float32) - 0.5
        return (output.float() * (1 + torch.finfo(output.dtype).eps * noise)).to(output.dtype)
