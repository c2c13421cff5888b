"""Read an outcome off a finished run."""

from __future__ import annotations

import os
import signal

from nemo_cascade.sandbox.execution import Errand
from nemo_cascade.sandbox.inside.job import EXIT_MEMORY
from nemo_cascade.sandbox.program import Outcome, Status

_LIMIT_STATUS = {"timeout": Status.TIMEOUT, "memory": Status.MEMORY, "output": Status.OUTPUT}
# The kernel ends a process at its CPU limit by counting clock ticks, which may run ahead of the time it reports.
_TICK_SLACK = 0.8
_ALLOCATION_FAILURE = "std::bad_alloc"


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
        peak_mib=errand.ended.rss_mib,
        detail=detail,
    )


def _status(errand: Errand, exit_code: int, stderr: str) -> tuple[Status, str]:
    assert errand.ended is not None
    limits = errand.limits
    told = {
        "timeout": f"over {limits.wall_s:g} s of wall time or {limits.cpu_s:g} s of CPU",
        "memory": f"over {limits.memory_mib} MiB of memory",
        "output": f"over {limits.output_kib} KiB of output",
    }
    reason = errand.over or errand.ended.reason
    if reason is None and _used_up_its_cpu(errand, exit_code):
        reason = "timeout"
    if reason is None and (exit_code == EXIT_MEMORY or (exit_code != 0 and _ALLOCATION_FAILURE in stderr)):
        reason = "memory"
    if reason in _LIMIT_STATUS:
        return _LIMIT_STATUS[reason], told[reason]
    if reason is not None or exit_code == -signal.SIGKILL:
        why = "stopped when the tests had ended" if reason else "killed by the system, most likely out of memory"
        return Status.KILLED, why
    if exit_code < 0:
        return Status.ERROR, f"ended by {signal.Signals(-exit_code).name}"
    return (Status.OK, "") if exit_code == 0 else (Status.ERROR, f"exit status {exit_code}")


def _used_up_its_cpu(errand: Errand, exit_code: int) -> bool:
    assert errand.ended is not None
    if exit_code == -signal.SIGXCPU:
        return True
    return exit_code == -signal.SIGKILL and errand.ended.cpu_s > _TICK_SLACK * errand.limits.cpu_s
