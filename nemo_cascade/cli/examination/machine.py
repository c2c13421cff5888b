"""The machine under a run: memory, limits, isolation, file systems, tools."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from nemo_cascade.cli.examination.finding import Finding, asked
from nemo_cascade.errors import SandboxError

GIB = 2**30
_FILES = 65535
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "fuse", "9p", "smb3", "cifs")


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


def limits() -> Iterator[Finding]:
    """Tell the limits of this process that Ray and NCCL run into."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = f"{soft} open files, may be raised to {hard}"
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        yield Finding("open files", "absent", words, f"hard limit of {_FILES}: a Ray of many actors needs them")
    else:
        yield Finding("open files", "ok", words)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked == resource.RLIM_INFINITY:
        yield Finding("locked memory", "ok", "unlimited")
    else:
        mend = "ulimit -l unlimited, where NCCL uses InfiniBand"
        yield Finding("locked memory", "absent", f"{locked // 1024} KiB", mend)


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


def file_systems() -> Iterator[Finding]:
    """Tell where the working folder (runs lie below it) and temporary files are, and write to both."""
    for subject, folder in (("working folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        kind, room = _kind_of(folder), shutil.disk_usage(folder).free
        words = f"{folder}: {kind}, {room / GIB:.1f} GiB free"
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield Finding(subject, "bad", f"{words}; not writable: {error.strerror}", "another folder, or mount it")
            continue
        local_sockets = subject == "temporary files" and kind.startswith(_NETWORK_FILE_SYSTEMS)
        if local_sockets:
            yield Finding(subject, "bad", words, "TMPDIR on this machine: Ray's sockets don't work over a network")
        elif room < GIB:
            yield Finding(subject, "bad", words, "checkpoints and logs need room")
        else:
            yield Finding(subject, "ok", words)


def tools() -> Iterator[Finding]:
    """Tell compiler and scheduler."""
    compiler = shutil.which("g++")
    yield (
        Finding("g++", "ok", compiler)
        if compiler
        else Finding("g++", "absent", "not found", "C++ answers can't be judged; torch can't compile")
    )
    if shutil.which("sbatch"):
        job = f"in job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else "in no job"
        yield Finding("slurm", "ok", f"{asked(['sinfo', '--version']) or 'sbatch is there'}, {job}")
    else:
        yield Finding("slurm", "absent", "no sbatch here", "only `nemo-cascade submit` needs it")


def _kind_of(folder: Path) -> str:
    """Return the type of the file system that a folder lies on: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point.replace("\\040", " "))]
    return max(above, key=lambda entry: len(entry[0]), default=("", "unknown"))[1]
