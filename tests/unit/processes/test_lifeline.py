import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]

# A driver, an actor tied to it with a child of its own, and no janitor.
DRIVER = """
import subprocess, sys, time
from nemo_cascade.processes.supervise import Driver
me = Driver.here()
place = [str(me.pid), str(me.ticks), sys.argv[2] or me.machine]
actor = subprocess.Popen([sys.executable, "-c", sys.argv[1], *place], start_new_session=True)
time.sleep(600)
"""
ACTOR = """
import subprocess, sys, time
from nemo_cascade.processes.supervise import Driver, tie_to
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
tie_to(Driver(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("machine", ["", "another/one"], ids=["the driver", "a raylet whose driver is elsewhere"])
def test_an_actor_and_its_children_end_with_whom_they_are_tied_to_though_nobody_tells_them(machine):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, ACTOR, machine],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert driver.stdout.readline().strip().isdigit()
    below = psutil.Process(driver.pid).children(recursive=True)
    assert len(below) == 2
    time.sleep(1.2)
    assert all(p.is_running() for p in below)  # as long as the driver lives
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
