"""GPUs as a run would use them: driver, links between them, what was built for them."""

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator

from nemo_cascade.cli.examination.finding import Finding, asked
from nemo_cascade.config.checks import host


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
    for line in sorted(set(lines)):
        yield Finding("device", "ok", f"{lines.count(line)} x {line}")
    yield from _cuda()
    yield from _links(len(lines))
    if not host.installed("transformer_engine"):
        yield Finding(
            "transformer engine", "absent", "not installed", "needed for FP8 and for speed; the container has it"
        )


def _cuda() -> Iterator[Finding]:
    """Compare the CUDA that torch was built for with what the driver can do."""
    told = re.search(r"CUDA Version: *(\d+)\.(\d+)", asked(["nvidia-smi"]) or "")
    try:
        built = re.search(r"\+cu(\d+)(\d)$", importlib.metadata.version("torch"))
        names = [entry.metadata["Name"] or "" for entry in importlib.metadata.distributions()]
    except importlib.metadata.PackageNotFoundError:
        return
    majors = {int(m[1]) for name in names if (m := re.fullmatch(r"nvidia-cudnn-cu(\d+)", name))}
    need = int(built[1]) if built else max(majors, default=0)
    if told is None or not need:
        yield Finding("cuda", "absent", "the driver's and torch's CUDA versions can't be compared")
    elif int(told[1]) < need:
        mend = "a newer driver, or an image whose torch is built for the driver's CUDA"
        yield Finding("cuda", "bad", f"the driver knows CUDA {told[1]}.{told[2]}, torch was built for {need}", mend)
    else:
        yield Finding("cuda", "ok", f"driver: {told[1]}.{told[2]}, torch: built for {need}")


def _links(gpus: int) -> Iterator[Finding]:
    """Tell NVLink, over which tensor parallelism is fast."""
    if gpus < 2:
        return
    status = asked(["nvidia-smi", "nvlink", "--status"]) or ""
    links = len(re.findall(r"Link \d+: *[\d.]+ GB/s", status))
    if links:
        yield Finding("nvlink", "ok", f"{links // gpus} links per GPU")
    else:
        yield Finding("nvlink", "absent", "none", "tensor parallelism will wait for PCIe; lower parallel.tp")
