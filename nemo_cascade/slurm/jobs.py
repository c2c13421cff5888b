"""Hand jobs to Slurm, and ask about them: which were submitted stands in the run folder."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nemo_cascade.errors import DeadlineError, RunFolderError, RuntimeUnavailableError
from nemo_cascade.storage.jsonl import append_line, read_lines

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
_ANSWER_S = 60.0
_CANCEL_S = 120.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class JobState:
    """What Slurm says of a job.

    Attributes:
        job: its number.
        state: PENDING, RUNNING, COMPLETED, ...; UNKNOWN where Slurm has forgotten it.
        detail: why it waits, or where it runs and how long yet.
    """

    job: str
    state: str
    detail: str


def check_slurm() -> None:
    """Refuse where Slurm's commands are missing.

    Raises:
        RuntimeUnavailableError: names them.
    """
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        mend = "submit on a login node of the cluster; --dry shows the script anywhere"
        raise RuntimeUnavailableError("there is no Slurm here", value=f"no {', '.join(missing)}", mend=mend)


def submit(script: Path) -> str:
    """Hand a written script to Slurm; return the job's number.

    Raises:
        RunFolderError: an earlier job of the run still waits or runs.
        RuntimeUnavailableError: Slurm refuses it.
    """
    check_slurm()
    for job in submitted(script.parent):
        if (found := state(job)).state not in _ENDED:
            raise RunFolderError(
                "the run has a job already", value=f"{job}, {found.state}", mend="wait for it, or submit --cancel RUN"
            )
    job = _ask(["sbatch", "--parsable", str(script)]).partition(";")[0]
    append_line(_list(script.parent), {"job": job, "time": datetime.now(UTC).isoformat(timespec="seconds")})
    return job


def submitted(folder: Path) -> list[str]:
    """Return the numbers of a run's jobs, oldest first, from its folder `slurm`."""
    return [str(record["job"]) for _, record in read_lines(_list(folder))]


def newest(run_folder: Path) -> str:
    """Return the number of a run's newest job.

    Raises:
        RunFolderError: none was submitted.
    """
    jobs = submitted(run_folder / "slurm")
    if not jobs:
        raise RunFolderError("no job of this run was submitted", value=run_folder, mend="nemo-cascade submit ...")
    return jobs[-1]


_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "UNKNOWN")


def state(job: str) -> JobState:
    """Ask Slurm for a job's state.

    Raises:
        RuntimeUnavailableError: it doesn't answer.
    """
    try:
        text = _ask(["scontrol", "show", "job", job, "--oneliner"])
    except RuntimeUnavailableError as error:
        if "Invalid job id" in str(error):
            return JobState(job, "UNKNOWN", "Slurm has forgotten it; its log has not")
        raise
    facts = dict(word.split("=", 1) for word in text.split() if "=" in word)
    found = facts.get("JobState", "UNKNOWN")
    running = f"on {facts.get('NodeList')} since {facts.get('StartTime')}, until {facts.get('EndTime')}"
    waiting = f"{facts.get('Reason')}, from {facts.get('StartTime')}"
    detail = {"RUNNING": running, "PENDING": waiting}.get(found, f"exit code {facts.get('ExitCode')}")
    return JobState(job, found, f"{detail}; restarts: {facts.get('Restarts', '0')}")


def cancel(job: str) -> None:
    """End a job, and wait until all of it is gone.

    Raises:
        RuntimeUnavailableError: Slurm refuses it.
        DeadlineError: it doesn't end.
    """
    _ask(["scancel", "--full", job])
    end = time.monotonic() + _CANCEL_S
    while (found := state(job)).state not in _ENDED:
        if time.monotonic() > end:
            raise DeadlineError(
                "the job does not end",
                value=f"{job}, {found.state}",
                limit=f"{_CANCEL_S:g} s",
                mend=f"scancel {job}, then ask again",
            )
        time.sleep(_POLL_S)


def log_file(run_folder: Path, job: str) -> Path:
    """Return the file that a job writes to."""
    return run_folder / "slurm" / f"job-{job}.log"


def _list(folder: Path) -> Path:
    return folder / "jobs.jsonl"


def _ask(command: Sequence[str]) -> str:
    check_slurm()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailableError(
            "Slurm does not answer",
            value=command[0],
            limit=f"{_ANSWER_S:g} s",
            mend="ask again; `sinfo` tells whether it answers",
        ) from None
    if done.returncode:
        raise RuntimeUnavailableError(
            f"{command[0]} failed",
            value=" ".join(done.stderr.split()) or done.returncode,
            mend="run it where Slurm's commands reach the cluster; its own words are above",
        )
    return done.stdout.strip()
