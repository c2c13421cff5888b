"""Whole nano as a job on two nodes of a real Slurm: the scores of the run without Slurm, whatever happens to it.

Half an hour on a quiet machine with two cores.
"""

import math
import time

import pytest

from tests.e2e.cascade_process import completed, events, metrics_of, tail

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(7200)]

NANO = ["cascade=nano", "logging.progress=false"]
TWO_NODES = ["cluster.num_nodes=2"]
RUN_S = 3600
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return the folder of the run without Slurm, and the seconds that it took."""
    runs = tmp_path_factory.mktemp("plain")
    began = time.monotonic()
    return completed(runs, "plain", NANO, RUN_S), time.monotonic() - began


def steps(run):
    """Return how many steps of all stages are on record."""
    return sum(path.read_bytes().count(b"\n") for path in run.glob("stages/*/metrics.jsonl"))


def ends_as(slurm, job, run, plain):
    """Let a job start again whenever it waits, until it has ended; compare its run with the one without Slurm."""
    log = run / "slurm" / f"job-{job}.log"
    end = time.monotonic() + RUN_S
    while (state := slurm.job(job)["JobState"]) not in ENDED:
        assert time.monotonic() < end, tail(log)
        if state == "PENDING":
            slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        time.sleep(2)
    assert state == "COMPLETED", tail(log)
    assert (run / "scores.json").read_bytes() == (plain / "scores.json").read_bytes()
    assert metrics_of(run) == metrics_of(plain)


def test_nano_on_two_nodes_ends_with_the_scores_of_one_without_slurm(slurm, runs, plain):
    run = runs / "nano"
    job = slurm.submit(runs, "nano", *NANO, *TWO_NODES, "slurm.wall_time_minutes=120")
    ends_as(slurm, job, run, plain[0])
    assert slurm.job(job)["Restarts"] == "0"
    assert len(list((run / "logs").glob(f"{job}.0/n*/raylet.out"))) == 2


def test_nano_through_a_short_wall_time_and_a_killed_node_ends_with_the_same_scores(slurm, runs, plain):
    folder, seconds = plain
    minutes = max(4, math.ceil(0.6 * seconds / 60))
    run = runs / "disturbed"
    short = [f"slurm.wall_time_minutes={minutes}", "slurm.stop_before_s=120"]
    job = slurm.submit(runs, "disturbed", *NANO, *TWO_NODES, *short)
    log = run / "slurm" / f"job-{job}.log"
    slurm.wait_until(lambda: slurm.job(job)["Restarts"] == "1", 60 * minutes + 300, f"no restart:\n{tail(log)}")
    assert "requeue (the run paused)" in log.read_text()  # its exit code was 75
    paused_at = steps(run)
    slurm.let_start(job)
    slurm.wait_until(lambda: steps(run) >= paused_at + 3, 1800, f"it does not go on:\n{tail(log)}")
    slurm.kill_node(slurm.head_of(job))
    slurm.wait_until(lambda: slurm.job(job)["Restarts"] == "2", 300, f"the lost node is not seen:\n{tail(log)}")
    ends_as(slurm, job, run, folder)
    pauses = events(run, "run_stopped")
    assert pauses
    assert all("PausedError" in stop["error"] for stop in pauses)
    assert slurm.job(job)["Restarts"] == str(len(pauses) + 1)
