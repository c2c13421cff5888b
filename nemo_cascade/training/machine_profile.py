"""What this machine does, measured: matrix products, attention, memory, the link between two processes, verdicts.

Each figure is the best of a few repetitions after a warm-up: what the machine can do, not what it did while busy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GEMMS = ((512, 512, 512), (2048, 576, 1536), (2048, 1536, 576), (1024, 1024, 4096))
"""Tokens, inner and outer width of the matrix products."""
_REPEATS = 5
_LINK_MIB = 32


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Measured figures.

    Attributes:
        gemm_tflops: by number format and shape.
        attention_tflops: causal, forward, at 1024 tokens.
        memory_tb_per_s: of a copy, read and written bytes together.
        link_gb_per_s: of an all-reduce between two processes, bytes of the buffer a second.
        verdicts_per_s: of short mathematical answers, by one process.
        memory_gb: of the machine.
    """

    gemm_tflops: dict[str, float]
    attention_tflops: float
    memory_tb_per_s: float
    link_gb_per_s: float
    verdicts_per_s: float
    memory_gb: float

    def best(self, dtype: str) -> float:
        """Return the best TFLOP/s of a number format."""
        return max(value for name, value in self.gemm_tflops.items() if name.startswith(dtype))


def measure_machine(verdict: Callable[[], Any]) -> MachineProfile:
    """Measure this machine, a minute or less.

    Args:
        verdict: gives one verdict on a short answer.
    """
    import psutil
    import torch

    from nemo_cascade.models.megatron import backend

    device = backend.device()
    gemms: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for m, k, n in GEMMS:
            a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
            seconds = _best(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            name = "fp32" if dtype is torch.float32 else "bf16"
            gemms[f"{name} {m}x{k}x{n}"] = 2 * m * k * n / seconds / 1e12
    q = torch.randn(1, 8, 1024, 64, device=device)
    attend = torch.nn.functional.scaled_dot_product_attention
    attention = 4 * 64 * 8 * 1024 * 1024 / 2 / _best(lambda: attend(q, q, q, is_causal=True)) / 1e12
    source = torch.empty(2**26, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copied = 2 * source.numel() / _best(lambda: target.copy_(source)) / 1e12
    memory = torch.cuda.get_device_properties(device).total_memory if backend.HAS_GPU else psutil.virtual_memory().total
    return MachineProfile(gemms, attention, copied, link_gb_per_s(), 1 / _best(verdict), memory / 1e9)


def link_gb_per_s() -> float:
    """Measure an all-reduce between two processes of this machine."""
    from nemo_cascade.training.launch import run_ranks

    seconds = max(run_ranks(_all_reduce_seconds, 2, deadline_s=120))
    return float(_LINK_MIB * 2**20 / seconds / 1e9)


def _all_reduce_seconds(rank: int, world_size: int, port: int) -> float:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    buffer = torch.zeros(_LINK_MIB * 2**18)
    try:
        return _best(lambda: dist.all_reduce(buffer))
    finally:
        dist.destroy_process_group()


def _best(work: Callable[[], Any]) -> float:
    """Return the seconds of the fastest repetition."""
    from nemo_cascade.models.megatron import backend

    work()
    times = []
    for _ in range(_REPEATS):
        backend.synchronize()
        begin = time.perf_counter()
        work()
        backend.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)
