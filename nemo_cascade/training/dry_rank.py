"""Any rank of any job, built alone and without memory: the real model, gradient buffers and optimizer on meta tensors.

Collectives do nothing; whatever Megatron-Core allocates for the rank is counted, to the byte.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.config.model import ModelConfig, OptimizerConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.build import build_model
from nemo_cascade.training.axes import current_axes, lay_out
from nemo_cascade.training.optimizer import PolicyOptimizer
from nemo_cascade.training.runtime import COLLECTIVE_TIMEOUT, stop
from nemo_cascade.training.worker import distributed

from megatron.core import tensor_parallel  # isort: skip


@dataclass(frozen=True, slots=True)
class DryRank:
    """What a rank holds between steps.

    Attributes:
        names: of its parameters in Megatron, chunk after chunk.
        elements: of its parameters, in the same order.
        weights: bytes.
        gradients: bytes of the gradient buffers.
        optimizer: bytes of main parameters and moments.
    """

    names: tuple[str, ...]
    elements: tuple[int, ...]
    weights: int
    gradients: int
    optimizer: int


@contextlib.contextmanager
def as_rank(rank: int, parallel: ParallelConfig) -> Iterator[Axes]:
    """Make this process a rank of the layout in which collectives do nothing; for one rank after another.

    Raises:
        RuntimeUnavailableError: this process has a GPU, where nothing is redirected to meta tensors.
    """
    if backend.HAS_GPU:
        what = "ranks are built without memory only in a process that sees no GPU"
        raise RuntimeUnavailableError(what, mend="CUDA_VISIBLE_DEVICES= nemo-cascade plan --ranks ...")
    import torch.distributed._tools.fake_collectives  # registers meta kernels for collectives
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from nemo_cascade.models.megatron import cpu

    dist.init_process_group("fake", rank=rank, world_size=parallel.layout.ranks, store=FakeStore())
    lay_out(parallel.layout, COLLECTIVE_TIMEOUT)
    tensor_parallel.model_parallel_cuda_manual_seed(0)
    cpu.target.device = torch.device("meta")
    try:
        with torch.device("meta"):  # for the factories that are called without a device
            yield current_axes()
    finally:
        cpu.target.device = torch.device("cpu")
        stop()


def dry_rank(
    rank: int, arch: Architecture, model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig
) -> DryRank:
    """Build a rank and count it."""
    with as_rank(rank, parallel) as axes:
        bare = build_model(arch, model=model, parallel=parallel, precision=precision, seq_length=128, axes=axes)
        named = [(name, parameter) for chunk in bare for name, parameter in chunk.named_parameters()]
        chunks = [distributed(chunk, parallel) for chunk in bare]
        optimizer = PolicyOptimizer(chunks, OptimizerConfig(lr=1e-6), parallel, precision, total_steps=1)
        buffers = [b for chunk in chunks for b in (*chunk.buffers, *chunk.expert_parallel_buffers)]
        return DryRank(
            names=tuple(name for name, _ in named),
            elements=tuple(parameter.numel() for _, parameter in named),
            weights=sum(parameter.numel() * parameter.element_size() for _, parameter in named),
            gradients=sum(buffer.grad_data.numel() * buffer.grad_data.element_size() for buffer in buffers),
            optimizer=sum(_state_bytes(part) for part in optimizer.parts),
        )


def _state_bytes(part: Any) -> int:
    """Return bytes of one optimizer's own tensors: moments, and main copies where the model is in bf16."""
    inner = part.optimizer
    total = 0
    for group in inner.param_groups:
        for parameter in group["params"]:
            total += _bytes(value for key, value in inner.state[parameter].items() if key != "step")
    mains = getattr(part, "shard_fp32_from_float16_groups", None) or getattr(part, "fp32_from_float16_groups", [])
    return total + _bytes(tensor for group in mains for tensor in group if tensor is not None)


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t))
