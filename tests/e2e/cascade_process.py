"""Drive the real command line as a user does: start it, watch its files, kill it, compare what it left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

# The nano cascade in miniature. The entropy bonus keeps the policy moving even where no answer is right yet,
# so that a resume which lost anything shows in the next line.
MICRO = [
    "cascade=nano",
    "~stages.reward_model",
    "~stages.rlhf",
    "~stages.if_rl",
    "~stages.code_rl",
    "~stages.swe_rl",
    *(f"~evaluation.suites.{suite}" for suite in ("chat", "code", "swe")),
    *(f"~evaluation.suites.{suite}" for suite in ("chat_think", "math_no_think", "to_think", "to_no_think")),
    "stages.sft1.promise.improve=[math]",
    "stages.sft2.promise={improve: [], hold: []}",
    "stages.math_rl.promise.hold=['*']",
    "stages.sft1.max_steps=8",
    "stages.sft1.optimizer.lr_warmup_steps=2",
    "stages.sft2.optimizer.lr_warmup_steps=2",
    "stages.sft2.max_steps=8",
    "parallel=single",
    "rollout.num_engines=1",
    "stages.sft1.checkpoint_every=4",
    "stages.sft2.checkpoint_every=3",
    "stages.math_rl.steps=5",
    "stages.math_rl.checkpoint_every=2",
    "stages.math_rl.prompts_per_step=4",
    "stages.math_rl.num_generations=4",
    "stages.math_rl.sampling.max_tokens=32",
    "stages.math_rl.loss.entropy_coefficient=0.01",
    "evaluation.suites.math.num_prompts=12",
    "evaluation.suites.instruction.num_prompts=12",
    "evaluation.suites.math.sampling.max_tokens=32",
    "evaluation.suites.instruction.sampling.max_tokens=32",
    "gate.on_regression=promote",
    "logging.progress=false",
]
TIMINGS = {"seconds", "tokens_per_s", "seconds_ahead", "memory_bytes"}


def start(runs_dir: Path, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    """Start `nemo-cascade run` on the miniature."""
    return start_run(runs_dir, name, [*MICRO, *overrides])


def start_run(
    runs_dir: Path, name: str, overrides: list[str], verb: Sequence[str] = ("run",)
) -> subprocess.Popen[bytes]:
    """Start `nemo-cascade run`, or `fork`; its output goes to `<name>.log` beside the run folder.

    Data and models are those of the whole test session: what one run has made, the next ones find.
    """
    places = [f"runs_dir={runs_dir}", f"data_dir={runs_dir.parent / 'data'}"]
    command = [sys.executable, "-m", "nemo_cascade", *verb, f"name={name}", *places, *overrides]
    log = (runs_dir / f"{name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen[bytes], log: Path, timeout_s: float = 280) -> int:
    """Wait for the end; a run that hangs is a failure with its last words."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"the run did not end in {timeout_s} s:\n{tail(log)}") from None


def completed(
    runs_dir: Path, name: str, overrides: list[str], timeout_s: float = 280, verb: Sequence[str] = ("run",)
) -> Path:
    """Run to the end, which has to be a good one; return the run folder."""
    log = runs_dir / f"{name}.log"
    assert finish(start_run(runs_dir, name, overrides, verb), log, timeout_s) == 0, tail(log)
    return runs_dir / name


def kill_when(
    process: subprocess.Popen[bytes], metrics: Path, lines: int, log: Path, timeout_s: float = 280
) -> list[psutil.Process]:
    """Send SIGKILL to the driver as soon as a metrics file has so many lines; return the processes below it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, f"the run ended before it could be killed:\n{tail(log)}"
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
            return kill(process)
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{metrics} never had {lines} lines:\n{tail(log)}")


def kill(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Send SIGKILL to the driver alone; return all that it had started, with what those had started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return family


def metrics_of(run: Path) -> dict[str, list[dict[str, object]]]:
    """Return every stage's lines without the timings."""
    return {
        path.parent.name: [
            {key: value for key, value in json.loads(line).items() if key not in TIMINGS}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(run.glob("stages/*/metrics.jsonl"))
    }


def events(run: Path, event: str) -> list[dict[str, object]]:
    """Return the details of a run's records of one kind, oldest first; none where the run has not begun."""
    ledger = run / "ledger.jsonl"
    found = map(json.loads, ledger.read_text().splitlines()) if ledger.is_file() else []
    return [record["details"] for record in found if record["event"] == event]


def wait_until_gone(family: list[psutil.Process], timeout_s: float = 60) -> list[psutil.Process]:
    """Wait until none of them runs; return what is left. One that is only not reaped is gone."""
    end = time.monotonic() + timeout_s
    while (left := [member for member in family if _lives(member)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tail(log: Path, lines: int = 40) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else "(no log)"
