"""The job's scripts: ports, addresses, and the course of a job with the cluster's commands replaced.

What needs a cluster (srun, scontrol, squeue, ray, the run) is a stand-in on PATH; the scripts are the rendered ones.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.slurm.script import SOURCED, TEMPLATES, Job, write

SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
ADDRESS = next(
    (
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith(("127.", "169.254."))
    ),
    None,
)

# Of srun: options have the form --name=value or --name; what is left is the command.
STAND_INS = {
    "srun": r"""
echo "srun $*" >>"$FAKE/calls"
while [[ ${1:-} == --* ]]; do [[ $1 == --nodelist=* ]] && at=${1#*=}; shift; done
[[ $1 == true ]] && exit "${PROBE:-0}"
export SLURMD_NODENAME=$at
exec "$@" """,
    "scontrol": r"""
echo "scontrol $*" >>"$FAKE/calls"
case "$1 $2" in
  "show hostnames") printf "n1\nn2\n" ;;
  "show node") for n in n1 n2; do echo "NodeName=$n Arch=x NodeAddr=$ADDRESS NodeHostName=$n"; done ;;
esac""",
    "squeue": 'date --date="+1 hour" +%Y-%m-%dT%H:%M:%S',
    "ray": r"""
echo "ray $*" >>"$FAKE/calls"
[[ $* == *--head* ]] || { echo "Ray runtime started."; exec sleep "${WORKER_LIVES_S:-60}"; }
all="$*"
port=${all#*--port=}
exec python3 -c "import socket, time; s = socket.create_server(('', ${port%% *}))
print('Ray runtime started.', flush=True); time.sleep(60)" """,
    "nemo-cascade": r"""
echo "nemo-cascade $* end=$SLURM_JOB_END_TIME" >>"$FAKE/calls"
touch "$FAKE/started"
eval "$DRIVER" """,
}


@pytest.fixture
def job(tmp_path):
    """Run a rendered job as Slurm would, with stand-ins; returns (exit code, output, calls)."""
    if ADDRESS is None:
        pytest.skip("this machine has no address but the loopback one")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    started = []

    def run(*overrides, asked_to_pause=False, **environment):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "started").unlink(missing_ok=True)
        config = compose(["cascade=nano", "cluster.num_nodes=2", "cluster.join_deadline_s=20", *overrides])[0]
        script = write(Job(config, ["cascade=nano", "seed=3"], tmp_path / "run", tmp_path))
        text = script.read_text()
        # The stand-ins come before the programs of this Python.
        script.write_text(re.sub(r"export PATH=.*", f'export PATH="{tools}:$PATH"', text))
        settings = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "FAKE": str(tmp_path),
            "ADDRESS": ADDRESS,
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": str(2),
            "DRIVER": "exit 0",
        }
        log = tmp_path / "log"
        with log.open("w") as file:  # not a pipe: the sleeping stand-ins would keep it open
            process = subprocess.Popen(
                ["bash", str(script)],
                env=settings | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        if asked_to_pause:
            end = time.monotonic() + 60
            while not (tmp_path / "started").exists():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            time.sleep(0.5)  # until the run has set its own trap
            process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@600 sends it
        process.wait(timeout=120)
        calls = tmp_path / "calls"
        return process.returncode, log.read_text(), calls.read_text() if calls.exists() else ""

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # the sleeping stand-ins, which Slurm would end with the job
            os.killpg(process.pid, signal.SIGKILL)


def plan(job_id, node=0, here=False):
    """Return a node's ports: as on a machine on which nothing listens, or as here."""
    others = "" if here else "listening() { :; }; "
    script = f'source "{TEMPLATES}/ports.sh"; {others}plan_ports {job_id} {node} && env | grep ^PORT_'
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return {name: int(port) for name, port in re.findall(r"(PORT_\w+)=(\d+)", output)}


def test_scripts_are_clean_by_shellcheck(tmp_path):
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed")
    config = compose(["cascade=nano", "slurm=pyxis", "slurm.container_image=/images/a b.sqsh"])[0]
    script = write(Job(config, ["cascade=nano", "name=it's"], tmp_path / "run", tmp_path))
    for path in (script, *(script.parent / name for name in SOURCED)):
        done = subprocess.run([SHELLCHECK, "-x", "-P", str(script.parent), path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_port_blocks_of_nodes_and_neighbouring_jobs_are_apart_and_below_the_ephemeral_range():
    blocks = []
    for job_id, node in ((1, 0), (1, 1), (1, 5), (8, 0), (111, 0), (4_000_000_000, 3)):
        ports = plan(job_id, node)
        single = [port for name, port in ports.items() if "WORKER" not in name]
        assert len(set(single)) == len(single) == 8
        assert max(single) < ports["PORT_WORKER_FIRST"] < ports["PORT_WORKER_LAST"] < 32768
        assert ports["PORT_WORKER_LAST"] - ports["PORT_WORKER_FIRST"] >= 100
        blocks.append(range(min(single), ports["PORT_WORKER_LAST"] + 1))
    for left, right in itertools.combinations(blocks[:5], 2):
        assert not set(left) & set(right)


def test_a_block_with_a_port_in_use_is_passed_over():
    free = plan(7, here=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free["PORT_WORKER_FIRST"] + 3))
        listener.listen()
        assert plan(7, here=True)["PORT_GCS"] > free["PORT_GCS"]


def test_an_address_is_found_where_the_name_leads_to_the_loopback(tmp_path):
    """As in Debian's /etc/hosts, and where Slurm was told a loopback address."""
    if ADDRESS is None:
        pytest.skip("this machine has no address but the loopback one")
    (tmp_path / "getent").write_text("#!/bin/bash\necho 127.0.1.1 STREAM x\n")
    (tmp_path / "getent").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NODE_ADDRESSES": "n1=127.0.0.1 n2=10.0.0.2"}
    command = ["bash", str(TEMPLATES / "node.sh"), "address"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"SLURMD_NODENAME": "n1"})
    assert done.stdout.strip() == ADDRESS, done.stderr
    (tmp_path / "hostname").write_text("#!/bin/bash\necho 127.0.1.1\n")
    (tmp_path / "hostname").chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"SLURMD_NODENAME": "n1"})
    assert done.returncode == 1
    assert "n1 has no IPv4 address that others can reach" in done.stderr


def test_a_job_starts_ray_on_all_nodes_and_hands_its_address_to_the_run(job):
    joined = 'until grep -q "ray start --address" "$FAKE/calls"; do sleep 0.2; done'
    container = ["slurm=pyxis", "slurm.container_image=/images/x.sqsh", "slurm.environment={NCCL_DEBUG: WARN}"]
    code, output, calls = job(*container, DRIVER=joined)
    assert code == 0, output
    gcs = re.search(r"--head .*--port=(\d+)", calls)[1]
    ran = re.search(r"nemo-cascade run (.*) end=(\d+)", calls)
    assert ran[1] == f"cascade=nano seed=3 cluster.ray_address={ADDRESS}:{gcs}"
    assert abs(int(ran[2]) - time.time() - 3600) < 120
    assert f"ray start --address={ADDRESS}:{gcs} --node-ip-address={ADDRESS}" in calls
    steps = [line for line in calls.splitlines() if "srun" in line]
    assert len(steps) == 2
    assert all("--container-image=/images/x.sqsh" in step and "env NCCL_DEBUG=WARN bash" in step for step in steps)
    assert re.findall(r"phase (\S+)", output) == ["allocation", "cascade", "done"]


def test_a_head_that_does_not_start_ends_the_job_at_once_with_its_words(job, tmp_path):
    (tmp_path / "bin" / "ray").write_text("#!/bin/bash\necho 'no space for the object store' >&2; exit 1\n")
    began = time.monotonic()
    code, output, calls = job()
    assert code == 1
    assert "n1: no space for the object store" in output
    assert "try 3;" in output
    assert "try 4;" not in output
    assert "Ray did not start on n1" in output
    assert "requeue" not in calls
    assert time.monotonic() - began < 30


def test_a_head_that_is_only_slow_is_tried_until_the_deadline(job, tmp_path):
    ray = tmp_path / "bin" / "ray"
    ready = ray.read_text()
    slow = 'echo "Exception: The current node timed out during startup." >&2; exit 1'
    ray.write_text(f'#!/bin/bash\necho x >>"$FAKE/tries"; (($(wc -l <"$FAKE/tries") > 5)) || {{ {slow}; }}\n{ready}')
    code, output, _ = job("cluster.join_deadline_s=60")
    assert code == 0, output
    assert "try 5;" in output


def test_a_ray_node_that_dies_fails_the_job_but_a_node_that_does_not_answer_is_lost(job):
    driver = "trap 'exit 143' TERM; sleep 60 & wait"
    code, output, calls = job(DRIVER=driver, WORKER_LIVES_S="1")
    assert code == 1, output
    assert "Ray ended on n2 while the run needed it" in output
    assert "requeue" not in calls
    code, output, calls = job(DRIVER=driver, WORKER_LIVES_S="1", PROBE="1")
    assert code == 0, output
    assert "requeue (a node is lost)" in output
    assert "scontrol requeue 77" in calls


@pytest.mark.parametrize(("driver", "code"), [("exit 2", 2), ("exit 3", 3)])
def test_the_job_ends_as_the_run_ends_and_is_not_requeued(job, driver, code):
    found, output, calls = job(DRIVER=driver)
    assert found == code, output
    assert "requeue" not in calls


def test_near_the_wall_time_the_run_is_asked_to_pause_and_the_job_requeued_but_not_for_ever(job):
    driver = "trap 'exit 75' USR1; sleep 60 & wait"
    code, output, calls = job(DRIVER=driver, asked_to_pause=True)
    assert code == 0, output
    assert "requeue (the run paused)" in output
    assert "scontrol requeue 77" in calls
    code, output, _ = job(DRIVER=driver, asked_to_pause=True, SLURM_RESTART_COUNT="20")
    assert code == 1
    assert "restarted 20 times already" in output


def test_a_run_that_does_not_pause_in_time_is_stopped_and_requeued_all_the_same(job):
    driver = "trap '' USR1; trap 'exit 143' TERM; sleep 60 & wait; wait"
    code, output, calls = job("slurm.stop_before_s=1", DRIVER=driver, asked_to_pause=True)
    assert code == 0, output
    assert output.count("the run has not paused") == 1
    assert "requeue (the wall time)" in output
    assert "scontrol requeue 77" in calls
