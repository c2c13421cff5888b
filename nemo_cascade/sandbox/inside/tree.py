"""Watch the processes of a run together: the kernel's limits count each process for itself."""

from __future__ import annotations

import os
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_STAT_STATE, _STAT_PARENT, _STAT_UTIME, _STAT_CSTIME, _STAT_RSS = 0, 1, 11, 15, 21  # fields behind the command


class Watched:
    """A run whose process tree is watched.

    Args:
        pid: its first process.
        memory_mib: most resident memory of the tree, pages shared with the zygote not counted.
        cpu_s: most CPU seconds of the tree.
    """

    def __init__(self, pid: int, memory_mib: int, cpu_s: float) -> None:
        self.pid, self.memory_mib, self.cpu_s = pid, memory_mib, cpu_s
        self.reason: str | None = None


class Watch:
    """The runs under watch; false while there is none."""

    def __init__(self) -> None:
        self.runs: dict[int, Watched] = {}

    def __bool__(self) -> bool:
        return bool(self.runs)

    def add(self, run: Watched) -> None:
        """Start to watch."""
        self.runs[run.pid] = run

    def remove(self, pid: int) -> str | None:
        """Stop to watch; return the limit it was killed for (`memory`, `timeout`), if it was."""
        run = self.runs.pop(pid, None)
        return run.reason if run else None

    def over_limit(self) -> list[int]:
        """Return the first processes of the runs that are over a limit."""
        if not self.runs:
            return []
        table = _processes()
        own_shared = _shared_bytes(os.getpid())
        for run in self.runs.values():
            family = _descendants(run.pid, table)
            memory = sum(max(0, table[pid].rss - own_shared) for pid in family)
            if memory > run.memory_mib << 20:
                run.reason = "memory"
            elif sum(table[pid].cpu_s for pid in family) > run.cpu_s:
                run.reason = "timeout"
        return [run.pid for run in self.runs.values() if run.reason is not None]


class _Process(NamedTuple):
    parent: int
    cpu_s: float
    rss: int


def _shared_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def _processes() -> dict[int, _Process]:
    table = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        cpu = sum(int(value) for value in fields[_STAT_UTIME:_STAT_CSTIME]) / _TICK
        table[int(name)] = _Process(int(fields[_STAT_PARENT]), cpu, int(fields[_STAT_RSS]) * _PAGE)
    return table


def _descendants(root: int, table: dict[int, _Process]) -> list[int]:
    family = {root} & table.keys()
    grown = True
    while grown:
        more = {pid for pid, process in table.items() if process.parent in family} - family
        family |= more
        grown = bool(more)
    return sorted(family)
