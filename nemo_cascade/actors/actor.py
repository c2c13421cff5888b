"""What every actor has: a lifeline to the driver, a stack dump on request, and facts about its process."""

import faulthandler
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.processes.supervise import Driver, machine_id, tie_to


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """Where an actor runs: process, machine, its file for stack dumps, Ray's node, host name, and where it writes.

    `log` is the file behind its stderr, on its own node; None where that is no file.
    """

    pid: int
    machine: str
    stacks: str
    node_id: str
    host: str
    log: str | None


class Actor:
    """Base of all actors. Heavy work belongs into methods, whose errors keep their type; not into constructors.

    Args:
        driver: whose end is this actor's end.
        name: for messages.
        stacks: file that SIGUSR1 makes the process write its Python stacks to.
    """

    def __init__(self, driver: Driver, name: str, stacks: str) -> None:
        # Another container on the driver's machine may have a /tmp of its own.
        self.name, self._stacks = name, stacks if driver.is_local and Path(stacks).parent.is_dir() else ""
        tie_to(driver)
        if self._stacks:
            self._stack_file = open(stacks, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
            faulthandler.register(signal.SIGUSR1, file=self._stack_file, all_threads=True)

    def hello(self) -> MemberInfo:
        """Answer that the actor is up."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        log = os.readlink("/proc/self/fd/2")
        return MemberInfo(
            os.getpid(),
            machine_id(),
            self._stacks,
            node,
            socket.gethostname(),
            log if os.path.isfile(log) else None,
        )

    def close(self) -> None:
        """Release what the actor holds."""
