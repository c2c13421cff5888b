"""Run Megatron-Core on a machine without CUDA (gloo, CPU tensors). Installed by `megatron.backend`, never on a GPU.

What the training path of Megatron-Core assumes of CUDA is: calls into `torch.cuda`, factory calls with
`device="cuda"` or `pin_memory=True`, `Tensor.cuda()`, and string compares of `Tensor.type()`. These are redirected as
plain functions; no TorchFunctionMode is involved, so a step costs nothing extra. On top of that it has a few errors
that only show without Transformer Engine and Apex; `models.megatron.fixes` mends those.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._device


@dataclass(slots=True)
class _Target:
    """Where redirected tensors go: the CPU, or meta where a test builds models without memory."""

    device: torch.device


target = _Target(torch.device("cpu"))

# fmt: off
_FACTORIES = (
    "zeros", "ones", "empty", "full", "tensor", "as_tensor", "arange", "rand", "randn", "randint", "randperm", "eye",
    "linspace", "triu_indices", "tril_indices", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like",
    "randn_like", "empty_strided",
)
_TYPED_TENSORS = (
    "FloatTensor", "HalfTensor", "BFloat16Tensor", "IntTensor", "LongTensor", "DoubleTensor", "ByteTensor",
)
# fmt: on


class _Stream:
    """A stream or event that is always done; the CPU has one queue."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    def record_event(self, event: Any = None) -> _Event:
        """Return an event that is already reached."""
        return _Event()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _Event(_Stream):
    def elapsed_time(self, end: Any) -> float:
        """Return 0.0 ms: nothing is queued."""
        return 0.0

    def query(self) -> bool:
        """Return True: everything is done."""
        return True


def install() -> None:
    """Redirect CUDA calls and mend Megatron-Core; call before anything imports megatron. Idempotent.

    Raises:
        AssertionError: megatron was imported before (a programmer's mistake: import `models.megatron.backend` first).
    """
    if getattr(torch.cuda, "_nemo_cascade_redirected", False):
        return
    assert not any(name.startswith("megatron.core") for name in sys.modules), (
        "import models.megatron.backend before megatron"
    )
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if "torch._dynamo" in sys.modules:  # imported before the variable was set: it has read its default already
        sys.modules["torch._dynamo"].config.disable = True
    _redirect_cuda_module()
    _redirect_factories()
    _redirect_tensor_methods()
    torch.cuda._nemo_cascade_redirected = True

    from nemo_cascade.models.megatron import fixes

    fixes.install()


def _names_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return bool(device.type == "cuda")
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, int) and not isinstance(device, bool)


def _redirect_cuda_module() -> None:
    cuda = torch.cuda
    cuda.current_device = lambda: target.device  # Megatron passes it on as device=
    cuda.device_count = lambda: 1
    cuda.set_device = lambda device=None: None
    cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    # Not torch.manual_seed: that calls cuda.manual_seed_all and would recurse without end.
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed))
    cuda.manual_seed_all = lambda seed: None
    cuda.default_generators = [torch.default_generator]
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "_lazy_init", "init", "ipc_collect"):
        setattr(cuda, name, lambda *args, **kwargs: None)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(cuda, name, lambda *args, **kwargs: 0)
    stream = _Stream()
    cuda.current_stream = cuda.default_stream = lambda *args, **kwargs: stream
    cuda.Stream, cuda.Event = _Stream, _Event
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.is_current_stream_capturing = lambda: False
    cuda.get_device_capability = lambda *args: (8, 0)
    cuda._lazy_call = lambda function, **kwargs: function()
    for name in _TYPED_TENSORS:  # isinstance() checks while Megatron casts
        setattr(cuda, name, getattr(torch, name))


def _redirect_factories() -> None:
    # Fills a cache with the C functions, so that `with torch.device("meta")` goes on recognising them.
    torch.utils._device._device_constructors()
    for name in _FACTORIES:
        setattr(torch, name, _on_target(getattr(torch, name)))


def _on_target(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            if _names_cuda(kwargs.get("device")):
                kwargs["device"] = target.device
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return redirected


def _redirect_tensor_methods() -> None:
    tensor, to, typed = torch.Tensor, torch.Tensor.to, torch.Tensor.type

    def redirected_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _names_cuda(args[0]):
            args = (target.device, *args[1:])
        if kwargs and _names_cuda(kwargs.get("device")):
            kwargs["device"] = target.device
        return to(self, *args, **kwargs)

    def redirected_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = typed(self, *args, **kwargs)  # the optimizer compares with 'torch.cuda.FloatTensor'
        return "torch.cuda." + result.rsplit(".", 1)[1] if isinstance(result, str) else result

    tensor.to, tensor.type = redirected_to, redirected_type
    tensor.cuda = lambda self, *args, **kwargs: self
    tensor.pin_memory = lambda self, *args, **kwargs: self
    tensor.record_stream = lambda self, stream: None
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self
