"""A driver joins a Ray that others started, or says within half a minute why it can't."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

JOIN = (
    "import sys; from nemo_cascade.actors.cluster import Cluster; from nemo_cascade.config.schema import ClusterConfig;"
    "config = ClusterConfig(device='cpu', gpus_per_node=0, ray_address=sys.argv[1], join_deadline_s=5);"
    "cluster = Cluster(config); cluster.start(); print('joined'); cluster.stop()"
)
# As enroot gives each container one of its own.
OTHER_TMP = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs tmpfs /tmp && exec "$@"', "container"]


@pytest.fixture(scope="module")
def ray_head():
    """Return the address of a Ray in a container's /tmp, its environment and how to enter that container."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ray = Path(sys.executable).parent / "ray"
    if not ray.is_file():
        ray = Path(shutil.which("ray"))
    port = 21379
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    log = Path(folder) / "start.out"
    with log.open("w") as file:
        head = subprocess.Popen(
            [
                ray, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}/t", "--no-monitor",
                "--include-dashboard=false", "--include-log-monitor=false", "--num-cpus=1", "--num-gpus=0",
                "--object-store-memory=80000000", "--ray-client-server-port=21380",
            ],
            env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        address = next(word for word in log.read_text().split() if f":{port}" in word).strip("'\"")
        yield address.removeprefix("--address=").strip("'\""), environment
    finally:
        head.terminate()
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def join(ray_head, *inside):
    address, environment = ray_head
    command = [*inside, sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_a_driver_in_the_same_container_joins(ray_head):
    done = join(ray_head)
    assert done.stdout == "joined\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another /tmp")
def test_a_driver_with_another_tmp_is_told_so(ray_head):
    done = join(ray_head, *OTHER_TMP)
    assert "its socket isn't visible here" in done.stderr, done.stderr[-2000:]
    assert "give both the same /tmp" in done.stderr
    assert "Traceback" in done.stderr, "a typed error, not an abort of Ray's core"


def test_missing_nodes_and_a_missing_head_are_told(ray_head):
    address, environment = ray_head
    # In a process of its own: Ray's core keeps the first token that it has read.
    for script, told in (
        (f"wait_for_nodes('{address}', 2, 1.0)", r"not all nodes joined Ray; got: 1: .*num_nodes=2 within"),
        ("joining.ANSWER_S = 1.0; wait_for_nodes('127.0.0.1:9', 1, 60.0)", r"no Ray at 127\.0\.0\.1:9"),
    ):
        command = f"from nemo_cascade.actors import joining; wait_for_nodes = joining.wait_for_nodes; {script}"
        done = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=120
        )
        assert re.search(rf"RuntimeUnavailableError: {told}", done.stderr), done.stderr[-2000:]
