"""What a run over several nodes needs of the network."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from nemo_cascade.cli.examination.finding import Finding
from nemo_cascade.config.checks import host

_INFINIBAND = Path("/sys/class/infiniband")


def addresses() -> Iterator[Finding]:
    """Tell by which addresses other nodes can reach this one."""
    found = [
        f"{address.address} ({card})"
        for card, listed in psutil.net_if_addrs().items()
        for address in listed
        if address.family == socket.AF_INET and not address.address.startswith(("127.", "169.254."))
    ]
    if found:
        yield Finding("addresses", "ok", ", ".join(found))
    else:
        yield Finding("addresses", "absent", "only the loopback one", "a run over several nodes needs one")


def infiniband() -> Iterator[Finding]:
    """Tell the ports over which NCCL would speak to other nodes; of no interest without a GPU."""
    if not host.gpu_present():
        return
    ports = sorted(_INFINIBAND.glob("*/ports/*")) if _INFINIBAND.is_dir() else []
    states = {port: _read(port / "state").partition(": ")[2] for port in ports}
    active = [port for port, state in states.items() if state == "ACTIVE"]
    if not ports:
        yield Finding("infiniband", "absent", "no device", "NCCL between nodes will use TCP")
        return
    rates = sorted({_read(port / "rate") for port in active})
    down = [f"{port.parts[-3]}: {states[port]}" for port in ports if port not in active]
    words = f"{len(active)} of {len(ports)} ports active{f' ({chr(44).join(rates)})' if rates else ''}"
    if active:
        yield Finding("infiniband", "ok", f"{words}{'; ' + ', '.join(down) if down else ''}")
    else:
        yield Finding("infiniband", "absent", f"{words}; {', '.join(down)}", "NCCL between nodes will use TCP")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
