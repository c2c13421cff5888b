"""Run a compiled program, or a compiler whose product goes back to the host."""

import os
import signal
import sys
from collections.abc import Callable

from .job import Job


def run(job: Job, started: Callable[[], None]) -> None:
    """Become the program, or run the compiler and copy its product out. Never returns."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    started()
    try:
        status = _compile(job) if "product" in job.descriptors else _execute(job)
    except (OSError, ValueError) as error:  # a binary that can't be executed, a product too large to read
        sys.stderr.write(f"{error}\n")
        status = 1
    os._exit(status if status >= 0 else 1)  # a compiler that a signal ended has failed too


def _execute(job: Job) -> int:
    os.execve(job.descriptors["binary"], [job.header["entry"], *job.header["argv"]], dict(os.environ))


def _compile(job: Job) -> int:
    import subprocess  # heavy, and needed by compilers only

    status = subprocess.run(job.header["argv"], check=False).returncode
    if status == 0:
        with open(job.header["product"], "rb") as product, open(job.descriptors["product"], "wb") as target:
            while chunk := product.read(1 << 16):
                target.write(chunk)
    return status
