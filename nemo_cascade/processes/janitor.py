"""The run's janitor: a small process that outlives the driver and ends whatever it left behind.

The driver holds the write end of a pipe; this process reads the other. When the driver is gone, however it went, or
says goodbye through the pipe, the janitor gives the session's processes a moment to end by themselves, kills the
rest, and removes the session's folders. This file is run as a script and uses the standard library alone.
"""

import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

MARKER = "NEMO_CASCADE_SESSION"
POLL_S = 0.5
GRACE_S = 2.0
KILL_DEADLINE_S = 15.0


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone or a zombie.

    A pid alone doesn't name a process: it is used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def parents() -> dict[int, int]:
    """Return the parent of every process that is not a zombie."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b") ")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            found[int(entry)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def session_processes(folder: str) -> list[int]:
    """Return the processes of a session: born with its name in their environment, or writing into its folder.

    Some of Ray's processes overwrite their environment with a title, but those log into the session's folder. A
    person who only reads a log there does not belong to it.
    """
    own = {os.getpid(), os.getppid()}
    return [pid for pid in parents() if pid not in own and _belongs(pid, folder)]


def _belongs(pid: int, folder: str) -> bool:
    try:
        if f"{MARKER}={folder}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return True
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_writes(pid, descriptor, folder) for descriptor in descriptors)


def _writes(pid: int, descriptor: str, folder: str) -> bool:
    try:
        if not os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(folder + "/"):
            return False
        info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(encoding="ascii")
    except OSError:
        return False
    flags = next(line for line in info.splitlines() if line.startswith("flags:")).split()[1]
    return bool(int(flags, 8) & (os.O_WRONLY | os.O_RDWR))


def kill(pids: list[int]) -> None:
    """Send SIGKILL to each; those already gone don't matter."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def sweep(folder: str, grace_s: float = GRACE_S, deadline_s: float = KILL_DEADLINE_S) -> list[int]:
    """End a session's processes: wait `grace_s`, then kill with all their descendants. Returns what survived."""
    started = time.monotonic()
    while (left := session_processes(folder)) and time.monotonic() - started < deadline_s:
        if time.monotonic() - started >= grace_s:
            kill(left + [below for pid in left for below in descendants(pid)])
        time.sleep(0.1)
    return left


def watch(driver: int, ticks: int, session: str, folders: list[str]) -> int:
    """Wait for the driver's end, then sweep and remove `folders`. Returns the number of survivors."""
    while start_ticks(driver) == ticks:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if ready:  # a byte, or the end of the pipe
            break
    left = sweep(session)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(min(1, watch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[3:])))
