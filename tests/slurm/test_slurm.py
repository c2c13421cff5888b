"""The Slurm scripts: their port plan, and the order of things with the cluster's commands replaced.

The commands that need a cluster (srun, scontrol, scancel, squeue, ray, the driver) are stand-ins on PATH; the scripts
themselves are the real ones.
"""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "slurm"
SCRIPTS = [*SLURM.glob("*.sbatch"), *SLURM.glob("lib/*.sh")]

STAND_INS = {
    # Options have the form --name=value or --name; what is left is the command.
    "srun": 'echo "srun $*" >>"$FAKE/calls"; while [[ ${1:-} == --* ]]; do shift; done; exec "$@"',
    "hostname": "echo 10.1.2.3 fe80::1",
    "scontrol": 'echo "scontrol $*" >>"$FAKE/calls"; [[ $1 == show ]] && printf "n1\\nn2\\n"; exit 0',
    "squeue": "printf '77.0 ray-head\\n77.2 driver\\n'",
    "scancel": 'echo "scancel $*" >>"$FAKE/calls"; kill -TERM "$(cat "$FAKE/driver.pid")"',
    "ray": '[[ $1 == health-check ]] && exit 0; echo "ray $*" >>"$FAKE/calls"; exec sleep "${RAY_LIVES_S:-60}"',
    "python": 'cat >/dev/null; echo "$ALIVE"',
    "nemo-cascade": 'echo $$ >"$FAKE/driver.pid"; echo "nemo-cascade $*" >>"$FAKE/calls"; eval "$DRIVER"',
}


@pytest.fixture
def job(tmp_path):
    """Run cascade.sbatch as Slurm would, with stand-ins; returns (exit code, output, calls)."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    started = []

    def run(*overrides, signal_when=None, **environment):
        settings = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "FAKE": str(tmp_path),
            "REPOSITORY": str(SLURM.parent),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "ALIVE": "2",
            "DRIVER": "exit 0",
            "START_DEADLINE_S": "1",
            "POLL_S": "0.1",
        }
        log = tmp_path / "log"
        with log.open("w") as file:  # not a pipe: the sleeping stand-ins would keep it open
            process = subprocess.Popen(
                ["bash", str(SLURM / "cascade.sbatch"), *overrides],
                env=settings | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        if signal_when is not None:
            end = time.monotonic() + 20
            while signal_when not in log.read_text() or not (tmp_path / "driver.pid").exists():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            time.sleep(0.2)  # until the driver has set its own trap
            process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@600 sends it
        process.wait(timeout=30)
        calls = tmp_path / "calls"
        return process.returncode, log.read_text(), calls.read_text() if calls.exists() else ""

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # the sleeping stand-ins, which Slurm would end with the job
            os.killpg(process.pid, signal.SIGKILL)


def plan(job_id):
    script = f'source "{SLURM}/lib/ports.sh"; plan_ports {job_id} && env | grep ^PORT_'
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return {name: int(port) for name, port in re.findall(r"(PORT_\w+)=(\d+)", output)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_port_blocks_of_neighbouring_jobs_are_apart_and_below_the_ephemeral_range():
    blocks = []
    for job_id in (1, 2, 3, 111, 112, 4_000_000_000):
        ports = plan(job_id)
        single = [port for name, port in ports.items() if "WORKER" not in name]
        assert len(set(single)) == len(single) == 7
        assert max(single) < ports["PORT_WORKER_FIRST"] < ports["PORT_WORKER_LAST"] < 32768
        assert ports["PORT_WORKER_LAST"] - ports["PORT_WORKER_FIRST"] >= 100
        blocks.append(range(min(single), ports["PORT_WORKER_LAST"] + 1))
    for left, right in itertools.combinations(blocks[:5], 2):
        assert not set(left) & set(right)


def test_a_port_in_use_is_named():
    script = f'source "{SLURM}/lib/ports.sh"; plan_ports 7; PORT_METRICS=$TAKEN; ports_free'
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = str(listener.getsockname()[1])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"TAKEN": taken})
    assert done.returncode == 1
    assert taken in done.stderr


def test_a_job_starts_ray_on_all_nodes_and_hands_its_address_to_the_run(job):
    code, output, calls = job("cascade=nemotron_cascade_8b", "seed=3", CONTAINER_IMAGE="/images/x.sqsh")
    assert code == 0, output
    gcs = plan(77)["PORT_GCS"]
    assert (
        "nemo-cascade run cluster.num_nodes=2 cluster.gpus_per_node=8 "
        f"cluster.ray_address=10.1.2.3:{gcs} cascade=nemotron_cascade_8b seed=3" in calls
    )
    assert f"ray start --head --node-ip-address=10.1.2.3 --port={gcs}" in calls
    assert f"ray start --address=10.1.2.3:{gcs}" in calls
    assert calls.count("--container-image=/images/x.sqsh") == 3
    phases = re.findall(r"phase (\S+)", output)
    assert phases == ["allocation", "ray", "waiting", "cascade", "done"]
    assert not list(SLURM.parent.glob(".ray-token-77"))


def test_nodes_that_do_not_join_end_the_job_at_the_deadline(job):
    code, output, calls = job("cascade=x", ALIVE="1")
    assert code == 1
    assert "only 1 of 2 nodes joined Ray within 1 s" in output
    assert "nemo-cascade" not in calls
    assert "requeue" not in calls


def test_a_ray_node_that_dies_fails_the_job(job):
    code, output, _ = job("cascade=x", DRIVER="sleep 20", RAY_LIVES_S="0")
    assert code == 1
    assert "a Ray node ended while the cascade was running" in output


@pytest.mark.parametrize(("driver", "code"), [("exit 2", 2), ("exit 3", 3)])
def test_the_job_ends_as_the_run_ends_and_is_not_requeued(job, driver, code):
    found, output, calls = job("cascade=x", DRIVER=driver)
    assert found == code, output
    assert "requeue" not in calls


def test_before_the_wall_time_the_run_is_stopped_and_the_job_requeued(job):
    driver = "trap 'exit 143' TERM; sleep 20 & wait"
    code, output, calls = job("cascade=x", DRIVER=driver, signal_when="phase cascade")
    assert code == 0, output
    assert "scancel --signal=TERM 77.2" in calls
    assert "scontrol requeue 77" in calls


def test_a_run_that_will_not_stop_is_requeued_all_the_same_but_not_for_ever(job):
    driver = "trap '' TERM; sleep 20 & wait"
    code, output, calls = job("cascade=x", DRIVER=driver, signal_when="phase cascade", STOP_DEADLINE_S="0")
    assert code == 0, output
    assert "scontrol requeue 77" in calls
    code, output, _ = job(
        "cascade=x", DRIVER=driver, signal_when="phase cascade", STOP_DEADLINE_S="0", SLURM_RESTART_COUNT="20"
    )
    assert code == 1
    assert "restarted 20 times already" in output
