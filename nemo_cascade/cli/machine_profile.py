"""`nemo-cascade profile machine`: measure this machine and write it as a hardware file, which plans then count with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.storage.atomic import write_atomically

if TYPE_CHECKING:
    from nemo_cascade.training.machine_profile import MachineProfile


def profile_machine(into: Path) -> int:
    """Measure and write."""
    from nemo_cascade.rewards.answers.compare import compare
    from nemo_cascade.training.machine_profile import measure_machine

    measured = measure_machine(lambda: compare(r"\frac{3}{4}", "0.75"))
    shown = table("this machine", "what", "measured#")
    for name, value in measured.gemm_tflops.items():
        shown.add_row(f"product {name}", f"{value:.3f} TFLOP/s")
    shown.add_row("causal attention", f"{measured.attention_tflops:.3f} TFLOP/s")
    shown.add_row("memory", f"{measured.memory_tb_per_s * 1e3:.1f} GB/s")
    shown.add_row("link between two processes", f"{measured.link_gb_per_s:.2f} GB/s")
    shown.add_row("verdicts", f"{measured.verdicts_per_s:,.0f} /s")
    out.print(shown)
    write_atomically(into, yaml.safe_dump(hardware_of(measured), sort_keys=False).encode())
    out.print(f"written: {into}", soft_wrap=True, markup=False)
    return 0


def hardware_of(measured: MachineProfile) -> dict[str, object]:
    """Return a profile as a hardware file's values."""
    import torch

    gpu = torch.cuda.is_available()
    major = torch.cuda.get_device_capability()[0] if gpu else 0
    generation = {8: "ampere", 9: "hopper", 10: "blackwell"}.get(major, "cpu")
    half, full = measured.best("bf16"), measured.best("fp32")
    best = half if gpu else max(half, full)
    return {
        "name": "this machine",
        "generation": generation,
        "memory_gb": round(measured.memory_gb, 1),
        "bf16_tflops": round(best, 4),
        "fp8_tflops": round(best, 4),
        "fp4_tflops": round(best, 4),
        "hbm_tb_per_s": round(measured.memory_tb_per_s, 5),
        "nvlink_gb_per_s": round(measured.link_gb_per_s, 3),
        "nvlink_domain": 8 if gpu else 64,
        "network_gb_per_s": round(measured.link_gb_per_s, 3),
        "source": "nemo-cascade profile machine",
    }
