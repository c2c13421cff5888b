"""What this machine offers, told without importing torch."""

import importlib.util
import shutil
from functools import cache
from pathlib import Path
from typing import Literal

from nemo_cascade.config.schema import ClusterConfig


@cache
def gpu_present() -> bool:
    """Tell whether a CUDA GPU can be used here: its device node exists and the driver is loaded.

    WSL has neither of the usual paths, but nvidia-smi and /dev/dxg.
    """
    nodes = list(Path("/dev").glob("nvidia[0-9]*"))
    if nodes and Path("/proc/driver/nvidia/version").exists():
        return True
    return Path("/dev/dxg").exists() and shutil.which("nvidia-smi") is not None


def installed(module: str) -> bool:
    """Tell whether a top-level module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def resolved_device(cluster: ClusterConfig) -> Literal["cpu", "gpu"]:
    """Return the device that a run uses: `auto` is the GPU where one is present."""
    if cluster.device == "auto":
        return "gpu" if gpu_present() else "cpu"
    return cluster.device
