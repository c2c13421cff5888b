"""What ties an actor's process to the driver: it ends itself, and all it started, when the driver is gone."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.actors.watching.janitor import descendants, kill, start_ticks

POLL_S = 0.5


def machine_id() -> str:
    """Return what is the same for two processes only if they share a kernel and its pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


@dataclass(frozen=True, slots=True)
class Driver:
    """The process whose end is everybody's end."""

    pid: int
    ticks: int
    machine: str

    @classmethod
    def here(cls) -> Driver:
        """Describe this process."""
        ticks = start_ticks(os.getpid())
        assert ticks is not None, "this process is alive"
        return cls(os.getpid(), ticks, machine_id())

    @property
    def is_local(self) -> bool:
        """Whether the driver runs on this machine, where its pid means something."""
        return self.machine == machine_id()

    @property
    def is_alive(self) -> bool:
        """Whether the driver still runs; only known on its own machine."""
        return not self.is_local or start_ticks(self.pid) == self.ticks


def tie_to(driver: Driver) -> None:
    """Watch the driver from a thread of this process; on another machine, the raylet that started this process.

    A raylet that has lost its cluster ends itself; a worker that waits in a collective wouldn't follow it.
    """
    raylet = os.getppid()

    def is_wanted() -> bool:
        return driver.is_alive if driver.is_local else os.getppid() == raylet

    def watch() -> None:
        while is_wanted():
            time.sleep(POLL_S)
        kill(descendants(os.getpid()))
        os._exit(1)  # a worker deep in a collective or a kernel hears nothing gentler

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
