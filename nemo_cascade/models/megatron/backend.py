"""The first import of everything that uses Megatron-Core: decides GPU or CPU, once per process.

Megatron-Core assumes CUDA while it is being imported, so what it needs on a machine without a GPU must be in place
before. Modules in `models/` and `training/` therefore import this module before anything from `megatron`. Where a
GPU and Transformer Engine are there, nothing at all is patched.
"""

import importlib.util
import os
import resource

import torch

HAS_GPU: bool = torch.cuda.is_available()
"""Whether this process sees a CUDA GPU; decided before anything is patched."""

if HAS_GPU:
    # Megatron-Core relies on one hardware queue to overlap communication with computation in the intended order.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
else:
    from nemo_cascade.models.megatron import cpu

    cpu.install()
if HAS_GPU and importlib.util.find_spec("transformer_engine") is None:
    # Torch's Adam stands in for Transformer Engine's; Megatron-Core's errors with it don't depend on the device.
    from nemo_cascade.models.megatron import fixes

    fixes.mend_without_transformer_engine()


def device() -> torch.device:
    """Return the device that this process's model lives on: its GPU, the CPU, or meta in a test without memory."""
    if HAS_GPU:
        return torch.device("cuda", torch.cuda.current_device())
    return cpu.target.device


def synchronize() -> None:
    """Wait until the device has done all that was queued (no-op on the CPU)."""
    if HAS_GPU:
        torch.cuda.synchronize()


def empty_cache() -> None:
    """Give cached device memory back to the driver (no-op on the CPU)."""
    if HAS_GPU:
        torch.cuda.empty_cache()


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: allocated on the GPU, or resident on the CPU."""
    if HAS_GPU:
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
