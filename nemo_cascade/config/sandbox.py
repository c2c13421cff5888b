"""The sandbox that runs model-written programs, and the limits of one run."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from nemo_cascade.config.base import block

Seconds = Annotated[float, Field(gt=0, le=86400)]


@block
class Limits:
    """What one run of an untrusted program may use; over any of them it is killed and the outcome says which."""

    cpu_s: Seconds = 10.0
    """CPU seconds of all its processes together."""
    wall_s: Seconds = 10.0
    """Seconds from its start until it must have ended."""
    waiting_s: Seconds = 86400.0
    """Seconds that it may spend waiting for anything but the CPU: asleep, or for input that never comes."""
    memory_mib: Annotated[int, Field(ge=64, le=1 << 20)] = 512
    """Address space of each process, and resident memory of all of them together. Python itself takes about 40."""
    output_kib: Annotated[int, Field(gt=0, le=1 << 20)] = 256
    """Kept and allowed output, standard output and standard error each."""
    processes: Annotated[int, Field(gt=0, le=4096)] = 16
    """Processes and threads at the same time."""
    forks: bool = True
    """Whether it may start processes; without them it may still start threads."""
    files_mib: Annotated[int, Field(gt=0, le=1 << 16)] = 16
    """Size of its private /tmp, all files together, and the largest single file."""


@block
class SandboxConfig:
    """Isolation of untrusted programs."""

    isolation: Literal["bubblewrap", "rlimits"] = "bubblewrap"
    """bubblewrap: namespaces, private root and /tmp, seccomp, limits; refused where the kernel forbids namespaces.
    rlimits: limits, seccomp and no capabilities only: the program can read what this user can read."""
    compile_limits: Limits = field(
        default_factory=lambda: Limits(wall_s=20.0, waiting_s=10.0, memory_mib=1024, output_kib=64, files_mib=64)
    )
    """Limits of a compiler run."""
    packages: list[str] = field(default_factory=lambda: ["numpy", "sortedcontainers"])
    """Installed top-level packages that programs may import beside the standard library, where present."""
