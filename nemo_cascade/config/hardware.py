"""One accelerator and its links, as a data sheet or a profile says."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block


@block
class HardwareConfig:
    """What a plan knows of a machine: nominal figures of one accelerator; speeds are dense, links one direction.

    Without any: two cores of a server. conf/hardware/ has others.
    """

    name: str = "CPU"
    """As figures name it: H100."""
    generation: Literal["ampere", "hopper", "blackwell", "cpu"] = "cpu"
    """Whose kernels it runs: factors of the shipped fit are kept by generation."""
    memory_gb: PositiveFloat = 16.0
    """Memory of one accelerator, 1e9 bytes; of a CPU machine: of all its ranks together."""
    bf16_tflops: PositiveFloat = 0.1
    """Dense BF16 TFLOP/s."""
    fp8_tflops: PositiveFloat = 0.1
    """Dense FP8 TFLOP/s; BF16's where it has none."""
    fp4_tflops: PositiveFloat = 0.1
    """Dense FP4 TFLOP/s; FP8's where it has none."""
    hbm_tb_per_s: PositiveFloat = 0.02
    """Memory bandwidth, 1e12 bytes a second."""
    nvlink_gb_per_s: PositiveFloat = 2.0
    """Fast link of one accelerator, one direction, 1e9 bytes a second."""
    nvlink_domain: PositiveInt = 64
    """Accelerators that the fast link joins."""
    network_gb_per_s: PositiveFloat = 1.0
    """Network of one accelerator, one direction, 1e9 bytes a second."""
    price_per_hour: NonNegativeFloat = 0.0
    """Of one accelerator, in your currency; 0: no cost is told."""
    calibration: str | None = None
    """File of `nemo-cascade plan --calibrate`: steps measured on this machine, which plans then start from."""
    source: str = ""
    """Where the figures are from."""
