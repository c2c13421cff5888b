"""Installed versions against a lock's."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from nemo_cascade.cli.examination.finding import Finding
from nemo_cascade.config.checks import host

_LOCKS = Path(__file__).resolve().parents[3] / "containers"


def own_lock() -> Path:
    """Return the lock of this machine's device."""
    return _LOCKS / ("gpu.lock" if host.gpu_present() else "cpu.lock")


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
