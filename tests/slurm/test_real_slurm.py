"""Submitted runs under a real Slurm (four node names here), each container with a /tmp of its own.

The run is one stage of SFT without evaluation: no engine has to start, and bit-identical weights and metrics say more
than scores would.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.cascade_process import MICRO, completed, events, metrics_of, tail

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ONE_STAGE = [
    *(override for override in MICRO if not override.startswith(("stages.", "evaluation.suites"))),
    "~stages.sft2",
    "~stages.math_rl",
    "~evaluation.suites.math",
    "~evaluation.suites.instruction",
    "evaluation.evaluate_start=false",
    "stages.sft1.promise={improve: [], hold: []}",
    "stages.sft1.max_steps=30",
    "stages.sft1.checkpoint_every=10",
    "stages.sft1.optimizer.lr_warmup_steps=2",
]


def lines(run):
    metrics = run / "stages" / "01-sft1" / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return the folder of the same run without Slurm."""
    return completed(tmp_path_factory.mktemp("plain"), "plain", ONE_STAGE, 600)


def started_again(slurm, job, run, log, disturb):
    """Disturb a job that trains, let it start again at once, and return the step that its run was at."""
    before = lines(run)
    slurm.wait_until(lambda: lines(run) >= before + 3, 600, f"no steps:\n{tail(log)}")
    disturb()
    slurm.let_start(job)
    return lines(run)


def ends_as(slurm, job, run, log, plain):
    """Wait for a job's end, and compare its run with one that was never disturbed."""
    slurm.wait_until(lambda: slurm.job(job)["JobState"] in ("COMPLETED", "FAILED"), 600, f"no end:\n{tail(log)}")
    assert slurm.job(job)["JobState"] == "COMPLETED", tail(log)
    assert metrics_of(run) == metrics_of(plain)
    assert events(run, "trained") == events(plain, "trained")


@pytest.mark.long
def test_a_run_that_paused_and_was_requeued_ends_as_one_without_slurm(slurm, runs, plain):
    job = slurm.submit(runs, "paused", *ONE_STAGE, "cluster.num_nodes=2", "slurm.wall_time_minutes=60")
    run = runs / "paused"
    log = run / "slurm" / f"job-{job}.log"
    # As Slurm does shortly before the wall time.
    signal_it = ["scancel", "--signal=USR1", "--batch", job]
    paused_at = started_again(slurm, job, run, log, lambda: slurm(*signal_it))
    assert "PausedError" in events(run, "run_stopped")[-1]["error"]
    assert (run / "stages" / "01-sft1" / "checkpoints" / f"step_{paused_at:06d}").is_dir()
    ends_as(slurm, job, run, log, plain)
    assert events(run, "stage_resumed")[-1]["step"] == paused_at
    assert slurm.job(job)["Restarts"] == "1"
    assert "127.0." not in log.read_text()
    # Of both nodes, of both starts.
    assert len(list((run / "logs").glob(f"{job}.*/n*/raylet.out"))) == 4
    assert "COMPLETED" in slurm.cascade("submit", "--status", str(run))
    assert "Ray is up" in slurm.cascade("submit", "--logs", str(run))


@pytest.mark.long
def test_a_run_whose_node_is_lost_is_requeued_and_ends_as_one_without_slurm(slurm, runs, plain):
    job = slurm.submit(runs, "lost", *ONE_STAGE, "cluster.num_nodes=2", "slurm.wall_time_minutes=60")
    run = runs / "lost"
    log = run / "slurm" / f"job-{job}.log"
    slurm.wait_until(lambda: lines(run) >= 3, 600, f"no steps:\n{tail(log)}")
    started_again(slurm, job, run, log, lambda: slurm.kill_node(slurm.head_of(job)))
    ends_as(slurm, job, run, log, plain)
    assert slurm.job(job)["Restarts"] == "1"


@pytest.mark.long
def test_a_judge_in_the_same_job_is_asked_and_a_cancelled_job_leaves_nothing(slurm, runs):
    server = slurm.folder / "judge.py"
    server.write_text(
        "import http.server, sys\n"
        "class Models(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/v1/models' else 404); self.end_headers()\n"
        "http.server.HTTPServer(('0.0.0.0', int(sys.argv[1])), Models).serve_forever()\n"
    )
    judge = ["reward.genrm.model=judge", f"slurm.judge.command='python {server} 8765'", "slurm.judge.port=8765"]
    job = slurm.submit(runs, "judged", *ONE_STAGE, *judge, f"slurm.container_mounts=[{slurm.folder}:{slurm.folder}]")
    run = runs / "judged"
    log = run / "slurm" / f"job-{job}.log"
    slurm.wait_until(lambda: events(run, "run_started"), 600, f"it does not start:\n{tail(log)}")
    assert "the judge answers at" in log.read_text()
    assert ":8765/v1" in (run / "config.yaml").read_text()
    names = (str(run), f"cascade-{job}-", str(server))
    assert len({name for name in names if holders(name)}) == 3
    slurm.cascade("submit", "--cancel", str(run))
    end = time.monotonic() + 30
    while (left := [held for name in names for held in holders(name)]) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == []
    assert "CANCELLED" in slurm.cascade("submit", "--status", str(run))


def test_every_node_of_an_allocation_is_examined(slurm, runs):
    lock = slurm.folder / "few.lock"
    lock.write_text("numpy==0.0.1\n")
    command = [sys.executable, "-m", "nemo_cascade", "doctor", "--all-nodes", "--lock", str(lock)]
    done = subprocess.run(
        ["salloc", "--quiet", "--nodes=2", "--exclusive", *command],
        env=slurm.environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "(lock: 0.0.1)" in done.stdout
    assert "packages (all 2 nodes)" in done.stdout
    assert "no node off by more than" in done.stdout
    assert ", in job" in done.stdout


def holders(text):
    """Return the processes whose command line, or a file that they hold open, has the text in it."""
    found = []
    for process in psutil.process_iter():
        try:
            files = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
            told = " ".join([*process.cmdline(), *files])
        except (OSError, psutil.Error):
            continue
        if text in told and process.pid != os.getpid():
            found.append(told)
    return found
