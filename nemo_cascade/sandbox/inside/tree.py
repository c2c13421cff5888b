"""Watch the processes of a run together: the kernel's limits count each process for itself."""

from __future__ import annotations

import contextlib
import os
import time
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
# Fields behind the command.
_STATE, _PARENT, _UTIME, _CUTIME, _PRIORITY, _THREADS, _RSS = 0, 1, 11, 13, 15, 17, 21
_LONGEST_LOOK_S = 0.25  # of a time in which nobody looked, only this much can be told to have been spent waiting
_BUSY_SHARE = 0.5


class Watched:
    """A run whose process tree is watched.

    Args:
        pid: its first process.
        group: the run is waiting only while all of its group are, and they share one limit of CPU time.
        memory_mib: most resident memory of the tree, pages shared with the zygote not counted.
        cpu_s: most CPU seconds of the trees of its group.
        waiting_s: most seconds that it waits for anything but the CPU.
    """

    def __init__(self, pid: int, group: int, memory_mib: int, cpu_s: float, waiting_s: float) -> None:
        self.pid, self.group, self.memory_mib, self.cpu_s, self.waiting_s = pid, group, memory_mib, cpu_s, waiting_s
        self.reason: str | None = None
        self.waited_s = self.used_s = self.group_s = 0.0
        self._own: dict[int, float] = {}
        self._gone_s = self._wanted_s = 0.0

    def look(self, family: dict[int, Process], elapsed_s: float) -> bool:
        """Take in the state of its processes; return whether it was busy."""
        for pid, seconds in self._own.items():
            if pid not in family:  # nobody may have waited for it, then no other process' account holds its time
                self._gone_s += seconds
        self._own = {pid: process.own_s for pid, process in family.items()}
        waited_for = sum(process.own_s + process.children_s for process in family.values())
        self.used_s = max(self.used_s, waited_for, self._gone_s + sum(self._own.values()))
        wanted_s = self._gone_s + sum(process.wanted_s for process in family.values())
        busy = wanted_s - self._wanted_s > _BUSY_SHARE * elapsed_s
        self._wanted_s = wanted_s
        # One that forked by vfork is in state D until its child goes on, which may sleep for ever.
        parents = {process.parent for process in family.values()}
        return busy or any(p.state == "R" or (p.state == "D" and pid not in parents) for pid, p in family.items())


class Watch:
    """The runs under watch; false while there is none."""

    def __init__(self) -> None:
        self.runs: dict[int, Watched] = {}
        self._looked_at = 0.0

    def __bool__(self) -> bool:
        return bool(self.runs)

    def add(self, run: Watched) -> None:
        """Start to watch."""
        if not self.runs:
            self._looked_at = time.monotonic()
        self.runs[run.pid] = run

    def remove(self, pid: int) -> Watched | None:
        """Stop to watch; return the run with the limit that it was killed for (memory, timeout, waiting), if it was."""
        return self.runs.pop(pid, None)

    def over_limit(self) -> list[int]:
        """Return the first processes of the runs that are over a limit."""
        if not self.runs:
            return []
        now = time.monotonic()
        elapsed_s, self._looked_at = min(now - self._looked_at, _LONGEST_LOOK_S), now
        table = _processes()
        own_shared = _shared_bytes(os.getpid())
        busy: set[int] = set()
        for run in self.runs.values():
            family = _descendants(run.pid, table)
            if run.look(family, elapsed_s):
                busy.add(run.group)
            memory = sum(max(0, process.rss - own_shared) for process in family.values())
            if memory > run.memory_mib << 20:
                run.reason = "memory"
        for run in self.runs.values():
            run.group_s = sum(other.used_s for other in self.runs.values() if other.group == run.group)
            if run.reason is None and run.group_s > run.cpu_s:
                run.reason = "timeout"
            run.waited_s += 0.0 if run.group in busy else elapsed_s
            if run.reason is None and run.waited_s > run.waiting_s:
                run.reason = "waiting"
        return [run.pid for run in self.runs.values() if run.reason is not None]


class Process(NamedTuple):
    """A process as /proc shows it: its own CPU seconds, those of children it waited for, those it had or wanted.

    Its state is R where any of its threads has it.
    """

    parent: int
    state: str
    own_s: float
    children_s: float
    wanted_s: float
    rss: int


def _shared_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def _processes() -> dict[int, Process]:
    table = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # a process may call itself what is no text
                fields = file.read().rsplit(b")", 1)[1].split()
            with open(f"/proc/{name}/schedstat", "rb") as file:  # of its first thread
                running_ns, delayed_ns = map(int, file.read().split()[:2])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        own, children = (
            sum(int(value) for value in fields[first:last]) / _TICK
            for first, last in ((_UTIME, _CUTIME), (_CUTIME, _PRIORITY))
        )
        state, rss = fields[_STATE].decode(), int(fields[_RSS]) * _PAGE
        wanted = (running_ns + delayed_ns) / 1e9
        if int(fields[_THREADS]) > 1:
            runs, others_delayed_ns = _threads(name)
            state = "R" if runs else state
            wanted = own + (delayed_ns + others_delayed_ns) / 1e9
        table[int(name)] = Process(int(fields[_PARENT]), state, own, children, wanted, rss)
    return table


def _threads(pid: str) -> tuple[bool, int]:
    """Return whether any thread of a process but the first runs or wants to, and for how long they were kept from it.

    The latter is in nanoseconds; threads that have ended aren't counted.
    """
    runs, delayed_ns = False, 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            if thread == pid:
                continue
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                runs |= file.read().rsplit(b")", 1)[1].split(None, 1)[0] == b"R"
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                delayed_ns += int(file.read().split()[1])
    return runs, delayed_ns


def _descendants(root: int, table: dict[int, Process]) -> dict[int, Process]:
    family = {root} & table.keys()
    grown = True
    while grown:
        more = {pid for pid, process in table.items() if process.parent in family} - family
        family |= more
        grown = bool(more)
    return {pid: table[pid] for pid in sorted(family)}
