"""Look at this machine: versions against the lock, device, memory, sandbox, compiler, Slurm.

nemo-cascade doctor
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from rich.markup import escape

from nemo_cascade.cli.terminal import out, table
from nemo_cascade.config import host
from nemo_cascade.errors import SandboxError

TAKES_OVERRIDES = False
LOCK = Path(__file__).resolve().parents[2] / "containers" / "cpu.lock"
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        subject: what was looked at.
        state: ok; absent (something works without it less well); or bad (runs will fail).
        detail: what was found.
        mend: what would help.
    """

    subject: str
    state: Literal["ok", "absent", "bad"]
    detail: str
    mend: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--lock", type=Path, default=LOCK, metavar="FILE", help="versions to compare with (containers/cpu.lock)"
    )


def execute(args: argparse.Namespace) -> int:
    """Print all findings; exit code 2 if one of them makes runs fail."""
    findings = [*packages(args.lock), *(finding for look in LOOKS for finding in look())]
    shown = table("", "", "", "", "")
    shown.show_header = False
    colours = {"ok": "green", "absent": "yellow", "bad": "red"}
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        shown.add_row(state, finding.subject, escape(finding.detail), escape(finding.mend))
    out.print(shown)
    return 2 if any(finding.state == "bad" for finding in findings) else 0


def packages(lock: Path) -> Iterator[Finding]:
    """Compare installed versions with the lock's."""
    if not lock.is_file():
        yield Finding("versions", "absent", f"no lock at {lock}", "--lock FILE")
        return
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))
    missing, other = [], []
    for name, wanted in pins.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        # The CPU wheel of torch calls itself 2.13.0+cpu.
        if found.split("+")[0] != wanted.split("+")[0]:
            other.append(f"{name} {found} (lock: {wanted})")
    if missing:
        yield Finding("packages", "bad", f"missing: {', '.join(missing)}", "make setup")
    if other:
        yield Finding("packages", "bad", "; ".join(other), "make setup, or the container whose versions you want")
    if not missing and not other:
        yield Finding("packages", "ok", f"{len(pins)} as in {lock.name}")
    for trap in ("torchvision", "torchaudio", "torchcodec"):
        if host.installed(trap) and not host.gpu_present():
            yield Finding(trap, "bad", "installed; its CUDA build breaks transformers on CPU", f"pip uninstall {trap}")


def device() -> Iterator[Finding]:
    """Tell the GPUs, or that there is none."""
    if not host.gpu_present():
        yield Finding("device", "ok", "cpu: no CUDA GPU here", "cluster=cpu")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = (
            subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip().splitlines()
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("device", "bad", f"a GPU is there, but nvidia-smi fails: {error}", "mend the driver")
        return
    for line in lines:
        yield Finding("device", "ok", line)
    if not host.installed("transformer_engine"):
        yield Finding(
            "transformer engine", "absent", "not installed", "needed for FP8 and for speed; the container has it"
        )


def memory() -> Iterator[Finding]:
    """Tell cores, memory and shared memory."""
    cores = len(os.sched_getaffinity(0))
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    enough = total >= 8 * GIB
    yield Finding(
        "machine", "ok" if enough else "bad", f"{cores} cores, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free",
        "" if enough else "the nano cascade needs about 8 GiB",
    )  # fmt: skip
    shm = Path("/dev/shm")
    if not shm.is_dir():
        yield Finding("/dev/shm", "bad", "missing", "Ray and gloo need shared memory")
        return
    room = shutil.disk_usage(shm).free
    state: Literal["ok", "bad"] = "ok" if room >= GIB else "bad"
    mend = "" if state == "ok" else "docker run --shm-size=8g; cluster.object_store_mib must fit"
    yield Finding("/dev/shm", state, f"{room / GIB:.1f} GiB free", mend)


def sandbox() -> Iterator[Finding]:
    """Tell whether untrusted programs can be isolated, by isolating one."""
    from nemo_cascade.sandbox.isolation import find_bubblewrap

    try:
        program = find_bubblewrap()
    except SandboxError as error:
        yield Finding("sandbox", "bad", error.what, error.mend or "")
        return
    trial = [str(program), "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("sandbox", "bad", f"{program}: {error}", "see sandbox.isolation")
        return
    if done.returncode:
        mend = "allow user namespaces, or sandbox.isolation=rlimits in so many words"
        yield Finding("sandbox", "bad", f"{program}: {done.stderr.strip()}", mend)
    else:
        yield Finding("sandbox", "ok", f"{program} isolates")


def tools() -> Iterator[Finding]:
    """Tell compiler and scheduler."""
    compiler = shutil.which("g++")
    yield (
        Finding("g++", "ok", compiler)
        if compiler
        else Finding("g++", "absent", "not found", "C++ answers can't be judged; torch can't compile")
    )
    if shutil.which("sbatch"):
        version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=30).stdout.strip()
        yield Finding("slurm", "ok", version or "sbatch is there")
    else:
        yield Finding("slurm", "absent", "no sbatch here", "only slurm/ needs it")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (device, memory, sandbox, tools)
