"""The whole nano cascade with the policy's first rank on another machine than the driver, and the other rank beside it.

Engines and verifiers are on both machines, too: gradients, weights, rollouts and verdicts cross the cable.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.cascade_process import completed, events, finish, metrics_of, tail
from tests.support.two_machines import ADDRESS, PORT, RAY, two_machines

pytestmark = [pytest.mark.distributed, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(5400)]

ROOT = Path(__file__).parents[2]
NANO = ["cascade=nano", "logging.progress=false"]
START_S = 1200.0
RUN_S = 2400.0


def start_apart(machine, runs):
    """Start the run on the machine that its first rank won't be on."""
    joined = [f"cluster.ray_address={ADDRESS['a']}:{PORT}", "cluster.num_nodes=2"]
    words = [
        sys.executable,
        str(ROOT / "tests" / "support" / "apart.py"),
        "run",
        *NANO,
        *joined,
        "name=apart",
        f"runs_dir={runs}",
    ]
    environment = {**os.environ, **RAY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (runs / "apart.log").open("wb")
    return subprocess.Popen(machine.command(*words), env=environment, stdout=log, stderr=log, cwd=runs)


def roles_on(machine):
    """Return the kinds of actors on a machine."""
    titles = [word.split()[2] for word in machine.workers("apart.py")]
    return {title.removeprefix("ray::").partition(".")[0] for title in titles if title.startswith("ray::")}


def test_nano_with_its_first_rank_on_another_machine_than_the_driver_ends_as_on_one(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    log = tmp_path / "apart.log"
    try:
        with two_machines() as (a, b):
            process = start_apart(a, tmp_path)
            wanted = {"PolicyActor", "RolloutActor", "RewardActor"}
            end = time.monotonic() + START_S
            while not (roles_on(a) >= wanted and roles_on(b) >= wanted):
                assert process.poll() is None, tail(log)
                assert time.monotonic() < end, f"{roles_on(a)}, {roles_on(b)}:\n{tail(log)}"
                time.sleep(1.0)
            assert finish(process, log, RUN_S) == 0, tail(log)
            assert a.workers("apart.py") + b.workers("apart.py") == []
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no two machines here: {error}")
    apart, one = tmp_path / "apart", completed(tmp_path, "plain", NANO, RUN_S)
    assert metrics_of(apart) == metrics_of(one)
    assert events(apart, "trained") == events(one, "trained")  # the hashes of the weights
    assert (apart / "scores.json").read_bytes() == (one / "scores.json").read_bytes()
