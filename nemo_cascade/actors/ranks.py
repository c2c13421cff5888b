"""Actors that are ranks of one torch.distributed job: one process each, called together."""

import os
from collections.abc import Sequence
from typing import Any

import psutil
import ray

from nemo_cascade.actors.actor import Actor
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet, Member
from nemo_cascade.actors.placement import GpuSlot, beside_the_driver, placed_on
from nemo_cascade.processes.ports import free_port


class RankActor(Actor):
    """One rank's process; a subclass says in `make` what works in it."""

    worker: Any = None

    def make(self, **arguments: Any) -> Any:
        """Return the worker, given its place in the job."""
        raise NotImplementedError

    def address(self) -> tuple[str, int]:
        """Return this process's address and a free port, for the ranks to meet at."""
        host = ray.util.get_node_ip_address()
        return host, free_port(host)

    def start(self, **arguments: Any) -> None:
        """Make the worker; nothing heavy happens before its `setup`."""
        # Gloo would meet the others at what this host's name leads to: often 127.0.1.1, where no other node finds it.
        if (card := network_card(ray.util.get_node_ip_address())) is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
        self.worker = self.make(**arguments)

    def invoke(self, method: str, *args: Any) -> Any:
        """Call a method of the worker."""
        return getattr(self.worker, method)(*args)

    def close(self) -> None:
        """Leave the process groups and free the model."""
        if self.worker is not None:
            self.worker.close()


def network_card(address: str) -> str | None:
    """Return the name of this machine's network interface that has an address; None where none has it."""
    names = (str(name) for name, its in psutil.net_if_addrs().items() if any(one.address == address for one in its))
    return next(names, None)


def flight_recorder(cluster: Cluster, role: str) -> dict[str, str]:
    """Return what makes NCCL's watchdog write down each rank's last collectives when one of them hangs.

    `torch.distributed.flight_recorder` (fr_trace) tells from the files which rank was missing in which collective.
    """
    folder = cluster.log_folder or cluster.session
    size, file = "2000", str(folder / f"nccl-{role}-")
    # Torch has renamed them and reads both.
    return {
        "TORCH_FR_BUFFER_SIZE": size,
        "TORCH_NCCL_TRACE_BUFFER_SIZE": size,
        "TORCH_FR_DUMP_TEMP_FILE": file,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": file,
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    }


def add_ranks(
    fleet: Fleet, actor_class: type[RankActor], world_size: int, threads: int, slots: Sequence[GpuSlot]
) -> list[Member]:
    """Add the ranks of one job to a fleet, and have them know each other.

    Args:
        fleet: whose members they become.
        actor_class: what each process is.
        world_size: ranks.
        threads: CPU threads of each.
        slots: a place for each; empty: all of them on the driver's node.

    Raises:
        CascadeError: they don't come up.
    """
    cluster = fleet.cluster
    members = []
    for rank in range(world_size):
        environment, options = placed_on([slots[rank]]) if slots else ({}, beside_the_driver())
        if cluster.device == "gpu":
            environment["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
            environment |= flight_recorder(cluster, fleet.role)
        members.append(fleet.add(actor_class, cluster.environment(threads, **environment), **options))
    fleet.wait_until_up(members)
    start = cluster.config.actor_start_deadline_s
    ((host, port),) = fleet.call_on(members[:1], "address", deadline_s=start)
    refs = {
        member.name: member.handle.start.remote(
            rank=rank,
            world_size=world_size,
            master_addr=host,
            master_port=port,
            device=cluster.device,
            threads=threads,
            deterministic=cluster.config.deterministic,
        )
        for rank, member in enumerate(members)
    }
    fleet.gather(refs, "start", start)
    return members
