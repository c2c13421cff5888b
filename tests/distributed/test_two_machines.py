"""A hand-over of weights between two machines (tests/support/two_machines.py), and a network that is cut under it.

The policy's first rank is on the machine where the driver isn't.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.tiny_policy import write_tiny_folder
from tests.support.two_machines import ADDRESS, LOST_S, PORT, RAY, two_machines

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
END_S = 60.0
SYNC_DEADLINE_S = 15.0
DRIVER = "two_machines_driver"


@pytest.fixture(scope="module")
def machines():
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    try:
        with two_machines() as made:
            yield made
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no two machines here: {error}")


@pytest.fixture(scope="module")
def driver(machines, tmp_path_factory):
    """Start a driver on the first machine."""
    a, _ = machines
    folder = write_tiny_folder(
        tmp_path_factory.mktemp("two") / "model", hidden_size=256, head_dim=64, vocab_size=2048, eos_token_id=7
    )
    log = (tmp_path_factory.mktemp("log") / "driver.err").open("w+")
    words = [sys.executable, str(ROOT / "tests" / "support" / f"{DRIVER}.py"), f"{ADDRESS['a']}:{PORT}", folder]
    words.append(str(SYNC_DEADLINE_S))
    environment = {**os.environ, **RAY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        a.command(*words), env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
    ) as process:
        process.log = log
        yield process
        process.kill()


def next_line(process):
    """Return the driver's next line, in words; Ray writes lines of its own between them."""
    for line in process.stdout:
        if line.startswith(("PROVEN ", "AGAIN ", "ENDED ", "STOPPED")):
            return line.split()
    process.log.seek(0)
    raise AssertionError(process.log.read()[-3000:])


def test_weights_reach_an_engine_when_the_first_rank_is_on_another_machine_than_the_driver(driver):
    said, apart, buckets, proven, difference = next_line(driver)
    assert (said, apart) == ("PROVEN", "True")
    assert int(buckets) > 3  # more than fit in flight
    assert int(proven) > 40
    assert float(difference) < 1e-4
    assert next_line(driver)[0] == "AGAIN"


@pytest.mark.long
def test_a_cut_network_ends_a_hand_over_by_its_deadline_and_leaves_nothing(driver, machines):
    a, b = machines
    assert b.workers(DRIVER)
    b.run("ip", "link", "set", f"b{b.pid}", "down")
    while (line := next_line(driver))[0] == "AGAIN":
        pass
    said, _, seconds = line  # whatever Ray notices first: a lost bucket, a lost actor, or nothing until the deadline
    assert said == "ENDED"
    assert float(seconds) < SYNC_DEADLINE_S + 10.0
    assert next_line(driver) == ["STOPPED"]
    assert driver.wait(30) == 0
    end = time.monotonic() + LOST_S + END_S
    while (left := a.workers(DRIVER) + b.workers(DRIVER)) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == []
