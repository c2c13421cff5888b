"""A port to meet at, chosen before anybody listens there."""

import random
import socket

from nemo_cascade.errors import RuntimeUnavailableError

_PORTS = range(15000, 32000)
_handed_out: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on; never the same one twice in a process.

    It lies below the range that the kernel gives to outgoing connections, so that none of those can take it between
    now and its use.

    Args:
        host: this machine's address that will be listened on.

    Raises:
        RuntimeUnavailableError: all ports tried are taken.
    """
    for port in random.SystemRandom().sample(_PORTS, 200):
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise RuntimeUnavailableError(f"no free port of {host} was found", limit=f"{_PORTS.start}..{_PORTS.stop - 1}")
