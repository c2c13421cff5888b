"""Before a driver joins a Ray that others started: is it there, are all nodes in it, can its raylet be reached?

Ray itself ends the process in C++, without an exception, where the raylet's socket is missing: what a driver in another
container than its node's Ray meets.
"""

import logging
import socket
import time
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.sandbox.inside.foreign import Attempt

log = logging.getLogger(__name__)

ANSWER_S = 20.0
POLL_S = 0.5


def wait_for_nodes(address: str, num_nodes: int, deadline_s: float) -> None:
    """Wait until a cluster has as many nodes as the run counts on, one of which can be reached from here.

    Args:
        address: HOST:PORT of its head.
        num_nodes: nodes that must be alive.
        deadline_s: until then.

    Raises:
        RuntimeUnavailableError: nothing answers there, or not as Ray does, within `ANSWER_S`; the raylet's folder isn't
            visible here; or nodes are missing at the deadline: names those that are there.
    """
    end = time.monotonic() + deadline_s
    _wait_for_port(address)
    told = -1
    while True:
        nodes = _alive(address)
        if nodes:
            _check_visible(nodes)
        if len(nodes) >= num_nodes:
            return
        if len(nodes) != told:
            log.info("%d of %d nodes have joined Ray", len(nodes), num_nodes)
            told = len(nodes)
        if time.monotonic() > end:
            raise RuntimeUnavailableError(
                "not all nodes joined Ray",
                value=f"{len(nodes)}: {', '.join(_name(node) for node in nodes)}",
                limit=f"cluster.num_nodes={num_nodes} within cluster.join_deadline_s={deadline_s:g} s",
                mend="the others' ray-start.out under the run folder's logs/ tells why",
            )
        time.sleep(POLL_S)


def _wait_for_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + ANSWER_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except (OSError, ValueError) as error:
            if time.monotonic() > end or isinstance(error, ValueError):
                raise RuntimeUnavailableError(
                    f"no Ray at {address}",
                    value=f"{type(error).__name__}: {error}",
                    limit=f"an answer within {ANSWER_S:g} s",
                    mend="cluster.ray_address=HOST:PORT of the head; is it up, does a firewall let this node through?",
                ) from None
            time.sleep(POLL_S)
        else:
            return


def _alive(address: str) -> list[Any]:
    """Return Ray's records of the nodes that are alive, without joining."""
    import ray
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    with Attempt(Exception) as attempt:  # whatever comes out of gRPC: a wrong token, another version, another service
        found = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=ANSWER_S).values()
    if attempt.error is not None:
        raise RuntimeUnavailableError(
            f"what listens at {address} does not answer as this Ray does",
            value=f"{type(attempt.error).__name__}: {' '.join(str(attempt.error).split())}",
            mend="the same version of Ray on all nodes, and its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)",
        )
    return [node for node in found if node.state == GcsNodeInfo.GcsNodeState.ALIVE]


def _check_visible(nodes: list[Any]) -> None:
    """Refuse where no node's raylet listens at a socket that exists here."""
    if any(Path(node.raylet_socket_name).is_socket() for node in nodes):
        return
    raise RuntimeUnavailableError(
        "the Ray of this node can't be reached: its socket isn't visible here",
        value=", ".join(f"{_name(node)}: {node.raylet_socket_name}" for node in nodes[:4]),
        mend="start the driver in the container that Ray runs in, or give both the same /tmp "
        "(enroot gives each container one of its own)",
    )


def _name(node: Any) -> str:
    return f"{node.node_manager_hostname} ({node.node_manager_address})"
