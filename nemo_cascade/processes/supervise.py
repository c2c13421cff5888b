"""What ends with this process: the sessions that a janitor watches, and the processes that are tied to it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.processes import janitor

log = logging.getLogger(__name__)

POLL_S = 0.5
_DEADLINE_S = janitor.GRACE_S + janitor.KILL_DEADLINE_S + 5.0


class Watch:
    """A janitor at work: should this process die, it ends the session's processes and removes its folders.

    Args:
        pid, ticks: this process and when it started (`janitor.start_ticks`).
        session: names the session, in the environment of its processes.
        folders: to be removed beside it.
    """

    def __init__(self, pid: int, ticks: int | None, session: Path, *folders: Path) -> None:
        self._session = session
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", janitor.__file__, str(pid), str(ticks), str(session), *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for this process
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Return the janitor's process id."""
        return self._process.pid

    def end(self) -> None:
        """Have it end the session now, and wait for that; what does not end is logged."""
        assert self._process.stdin is not None
        try:
            # A word, not only the end of the pipe: a forked child of this process may hold it open.
            self._process.stdin.write(b".")
            self._process.stdin.close()
            left = self._process.wait(_DEADLINE_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            left = 1
        if left:
            log.error(
                "processes of the session %s did not end: %s",
                self._session,
                janitor.session_processes(str(self._session)),
            )


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
        ticks = janitor.start_ticks(os.getpid())
        assert ticks is not None, "this process is alive"
        return cls(os.getpid(), ticks, machine_id())

    @property
    def is_local(self) -> bool:
        """Whether the driver runs on this machine, where its pid means something."""
        return self.machine == machine_id()

    @property
    def is_alive(self) -> bool:
        """Whether the driver still runs; only known on its own machine."""
        return not self.is_local or janitor.start_ticks(self.pid) == self.ticks


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
        janitor.kill(janitor.descendants(os.getpid()))
        os._exit(1)  # a worker deep in a collective or a kernel hears nothing gentler

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
