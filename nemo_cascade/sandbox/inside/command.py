"""Run a compiled program, or a compiler whose product goes back to the host."""

from __future__ import annotations

import os
from collections.abc import Callable

from .job import EXIT_BROKEN, Job


def run(job: Job, started: Callable[[], None]) -> None:
    """Become the program, or run the compiler and copy its product out. Never returns."""
    if "binary" in job.descriptors:
        started()
        os.execve(job.descriptors["binary"], [job.header["entry"], *job.header["argv"]], dict(os.environ))
    product = job.header["product"]
    target = job.descriptors["product"]
    os.set_inheritable(target, False)
    started()
    import subprocess  # heavy, and needed by compilers only

    status = subprocess.run(job.header["argv"], check=False).returncode
    if status == 0:
        with open(product, "rb") as file:
            while chunk := file.read(1 << 16):
                os.write(target, chunk)
    os._exit(status & 0xFF if status >= 0 else EXIT_BROKEN - 1)
