"""Two machines on one: namespaces of their own for processes, mounts and network, a Ray node in each, a cable between.

The policy's first rank is on the machine where the driver isn't.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.tiny_policy import write_tiny_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ADDRESS = {"a": "10.213.0.1", "b": "10.213.0.2"}
PORT = 6379
# Ray's node gives up a head that it can't reach after this; its workers end with it.
LOST_S = 10
END_S = 60.0
SYNC_DEADLINE_S = 15.0
RAY = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(LOST_S),
    # A raylet whose link is cut hears no end of its connection; it has to ask.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
}


class Machine:
    """Namespaces that live as long as their first process; with it, all others in them end."""

    def __init__(self, name, ray_folder):
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        mounts = f"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {ray_folder} && ip link set lo up"
        self.name = name
        self._outer = subprocess.Popen(
            [*unshare, "sh", "-c", f"{mounts} && echo up && exec sleep 100000"], stdout=subprocess.PIPE, text=True
        )
        if self._outer.stdout.readline().strip() != "up":
            raise OSError("namespaces for processes, mounts and network can't be made here")
        self.pid = psutil.Process(self._outer.pid).children()[0].pid
        self._namespace = os.readlink(f"/proc/{self.pid}/ns/pid")

    def command(self, *words):
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *words]

    def run(self, *words):
        done = subprocess.run(self.command(*words), env={**os.environ, **RAY}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def start_ray(self, ray, *options):
        """Start a Ray node, which gives itself up after thirty seconds: little on a machine with others at work."""
        for _ in range(2):
            try:
                return self.run(ray, "start", *options)
            except AssertionError:
                self.run(ray, "stop", "--force")
        return self.run(ray, "start", *options)

    def workers(self):
        """Return the processes here that belong to a run and not to Ray itself."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            try:
                inside = os.readlink(f"/proc/{process.pid}/ns/pid") == self._namespace
            except OSError:
                continue
            actor = line.startswith("ray::") and "Actor" in line  # ray::IDLE and ray::DashboardAgent are Ray's own
            if inside and (actor or "two_machines_driver" in line):
                found.append(f"{self.name}: {process.pid} {line[:60]}")
        return found

    def end(self):
        self._outer.kill()
        self._outer.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    ray_folder = Path("/tmp") / f"two-{os.getpid()}"  # Ray's sockets lie below it: the path must be short
    ray_folder.mkdir()
    made = []
    try:
        for name in ADDRESS:
            made.append(Machine(name, ray_folder))
        a, b = made
        cable = ["ip", "link", "add", f"a{a.pid}", "netns", str(a.pid), "type", "veth"]
        subprocess.run([*cable, "peer", "name", f"b{b.pid}", "netns", str(b.pid)], check=True)
        for machine in made:
            card = f"{machine.name}{machine.pid}"
            machine.run("ip", "address", "add", f"{ADDRESS[machine.name]}/24", "dev", card)
            machine.run("ip", "link", "set", card, "up")
        yield made, ray_folder
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no two machines here: {error}")
    finally:
        for machine in made:
            machine.end()
        ray_folder.rmdir()


@pytest.fixture(scope="module")
def driver(machines, tmp_path_factory):
    """Start a Ray node on each machine, and a driver on the first one."""
    (a, b), ray_folder = machines
    ray = str(Path(sys.executable).with_name("ray"))
    common = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
    head = [f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
    a.start_ray(ray, "--head", f"--node-ip-address={ADDRESS['a']}", *head, *common)
    b.start_ray(ray, f"--address={ADDRESS['a']}:{PORT}", f"--node-ip-address={ADDRESS['b']}", *common)
    folder = write_tiny_folder(
        tmp_path_factory.mktemp("two") / "model", hidden_size=256, head_dim=64, vocab_size=2048, eos_token_id=7
    )
    log = (tmp_path_factory.mktemp("log") / "driver.err").open("w+")
    words = [sys.executable, str(ROOT / "tests" / "two_machines_driver.py"), f"{ADDRESS['a']}:{PORT}", folder]
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


def test_a_cut_network_ends_a_hand_over_by_its_deadline_and_leaves_nothing(driver, machines):
    (a, b), _ = machines
    assert b.workers()
    b.run("ip", "link", "set", f"b{b.pid}", "down")
    while (line := next_line(driver))[0] == "AGAIN":
        pass
    said, _, seconds = line  # whatever Ray notices first: a lost bucket, a lost actor, or nothing until the deadline
    assert said == "ENDED"
    assert float(seconds) < SYNC_DEADLINE_S + 10.0
    assert next_line(driver) == ["STOPPED"]
    assert driver.wait(30) == 0
    end = time.monotonic() + LOST_S + END_S
    while (left := a.workers() + b.workers()) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == []
