"""Read an outcome off a finished run."""

import os
import signal

from nemo_cascade.sandbox.execution import Errand
from nemo_cascade.sandbox.inside.job import EXIT_MEMORY
from nemo_cascade.sandbox.program import Outcome, Status

_LIMIT_STATUS = {
    "timeout": Status.TIMEOUT,
    "waiting": Status.TIMEOUT,
    "memory": Status.MEMORY,
    "output": Status.OUTPUT,
}
# The kernel ends a process at its CPU limit by counting clock ticks, which may run ahead of the time it reports.
_TICK_SLACK = 0.8
_ALLOCATION_FAILURE = "std::bad_alloc"
_STARVED_SHARE = 0.5


class _OutOfMemoryKills:
    """Counts what the kernel killed for want of memory, on the whole machine: whoever else is killed did it himself."""

    def __init__(self) -> None:
        self._seen = self._count()

    def any_more(self) -> bool:
        """Whether there were any since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    @staticmethod
    def _count() -> int:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)


_kills = _OutOfMemoryKills()


def outcome_of(errand: Errand) -> Outcome:
    """Return what came of an errand that has ended."""
    assert errand.ended is not None
    assert errand.ended_at is not None
    assert errand.started_at is not None
    stdout, stderr = (errand.said[stream].decode("utf-8", "replace") for stream in ("stdout", "stderr"))
    exit_code = os.waitstatus_to_exitcode(errand.ended.status)
    status, detail = _status(errand, exit_code, stderr)
    return Outcome(
        status=status,
        exit_code=1 if exit_code == EXIT_MEMORY and status is Status.MEMORY else exit_code,
        stdout=stdout,
        stderr=stderr,
        seconds=errand.ended_at - errand.started_at,
        cpu_s=errand.ended.cpu_s,
        waited_s=errand.ended.waited_s,
        detail=detail,
    )


def _status(errand: Errand, exit_code: int, stderr: str) -> tuple[Status, str]:
    assert errand.ended is not None
    limits = errand.limits
    told = {
        "timeout": f"over {limits.wall_s:g} s of wall time or {limits.cpu_s:g} s of CPU",
        "waiting": f"over {limits.waiting_s:g} s of waiting for anything but the CPU",
        "memory": f"over {limits.memory_mib} MiB of memory",
        "output": f"over {limits.output_kib} KiB of output",
    }
    reason = errand.over or errand.ended.reason
    if reason is None and _used_up_its_cpu(errand, exit_code):
        reason = "timeout"
    if reason is None and (exit_code == EXIT_MEMORY or (exit_code != 0 and _ALLOCATION_FAILURE in stderr)):
        reason = "memory"
    if reason == "timeout" and errand.over == reason and _was_starved(errand):
        return Status.STARVED, f"kept from the CPU: it had {errand.ended.cpu_s:.1f} s of it in {limits.wall_s:g} s"
    if reason in _LIMIT_STATUS:
        return _LIMIT_STATUS[reason], told[reason]
    if reason is not None:
        return Status.ABANDONED, "stopped when the tests had ended"
    if exit_code == -signal.SIGKILL and _kills.any_more():
        return Status.KILLED, "killed by the system, which was out of memory"
    if exit_code < 0:
        return Status.ERROR, f"ended by {_signal_name(-exit_code)}"
    return (Status.OK, "") if exit_code == 0 else (Status.ERROR, f"exit status {exit_code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def _was_starved(errand: Errand) -> bool:
    """Whether most of its time went by while it wanted the CPU: only where waiting is limited is that looked at."""
    assert errand.ended is not None
    limits = errand.limits
    lost_s = limits.wall_s - max(errand.ended.cpu_s, errand.ended.group_s) - errand.ended.waited_s
    return limits.waiting_s < limits.wall_s and lost_s > _STARVED_SHARE * limits.wall_s


def _used_up_its_cpu(errand: Errand, exit_code: int) -> bool:
    assert errand.ended is not None
    if exit_code == -signal.SIGXCPU:
        return True
    return exit_code == -signal.SIGKILL and errand.ended.cpu_s > _TICK_SLACK * errand.limits.cpu_s
