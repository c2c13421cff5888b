"""`nemo-cascade submit`: the script that it renders, everything that it refuses, and what becomes of its jobs."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from nemo_cascade.cli import main as command
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.provenance import config_hash
from nemo_cascade.config.slurm import slurm_violations
from nemo_cascade.slurm.script import SCRIPT, SOURCED, Job, render

PAPER = ["cascade=nemotron_cascade/8b", "cluster=dgx_h100", "cluster.num_nodes=10"]


def script(tmp_path, *overrides):
    config = compose(["cascade=nano", *overrides])[0]
    return render(Job(config, ["cascade=nano", *overrides], tmp_path / "runs" / "x y", tmp_path))


def options(text):
    return [line.removeprefix("#SBATCH ").strip('"') for line in text.splitlines() if line.startswith("#SBATCH ")]


def array(text, name):
    return shlex.split(re.search(rf"^{name}=\((.*)\)$", text, re.MULTILINE)[1])


def test_the_script_asks_for_what_the_configuration_says(tmp_path):
    text = script(
        tmp_path, "cluster=dgx_h100", "cluster.num_nodes=10", "slurm=pyxis", "slurm.container_image=/i/a.sqsh",
        "slurm.container_mounts=[/data:/data:ro]", "slurm.partition=batch", "slurm.account=lab", "slurm.qos=high",
        "slurm.wall_time_minutes=90", "slurm.options=['--reservation=r']", "slurm.environment={NCCL_IB_HCA: 'a,b'}",
        "reward.genrm.model=judge", "slurm.judge.command='vllm serve /models/judge --port 8000'",
    )  # fmt: skip
    told = options(text)
    for wanted in (
        "--nodes=11", "--gpus-per-node=8", "--mem=0", "--time=90", "--signal=B:USR1@600", "--requeue", "--exclusive",
        "--partition=batch", "--account=lab", "--qos=high", "--reservation=r",
        f"--output={tmp_path}/runs/x y/slurm/job-%j.log",
    ):  # fmt: skip
        assert wanted in told, wanted
    assert array(text, "ENVIRONMENT") == ["NCCL_IB_HCA=a,b"]
    assert array(text, "JUDGE") == ["vllm", "serve", "/models/judge", "--port", "8000"]
    assert array(text, "RUN")[:3] == ["nemo-cascade", "run", "cascade=nano"]
    mounts = f"--container-mounts={tmp_path}:{tmp_path},{tmp_path}/runs:{tmp_path}/runs,/data:/data:ro"
    assert mounts in array(text, "ON_NODE")
    assert array(text, "IN_CONTAINER") == []


def test_on_bare_nodes_the_python_that_submits_runs_and_without_gpus_none_are_asked_for(tmp_path):
    text = script(tmp_path)
    assert f"export PATH={Path(sys.executable).parent}:$PATH" in text
    assert not [option for option in options(text) if "gpus" in option]
    assert array(text, "ON_NODE") == array(text, "IN_CONTAINER") == []


def test_apptainer_stands_before_the_command(tmp_path):
    text = script(tmp_path, "cluster=dgx_h100", "slurm=apptainer", "slurm.container_image=/i/a.sif")
    assert array(text, "IN_CONTAINER")[:3] == ["apptainer", "exec", "--nv"]
    assert array(text, "IN_CONTAINER")[-1] == "/i/a.sif"


def test_every_violation_is_told_at_once():
    config = compose([
        "cascade=nano", "slurm.stop_before_s=300", "slurm.wall_time_minutes=5", "cluster.ray_address=a:1",
        "slurm.container_mounts=[data]", "slurm.environment={A-B: c}", "slurm.options=['--nodes=3',nice,'--qos=x']",
        "reward.genrm.url=http://j/v1", "slurm.judge.command=serve",
    ])[0]  # fmt: skip
    told = [str(violation) for violation in slurm_violations(config)]
    for part in (
        "stopped before it could do anything", "a Ray of its own", "no mount", "mounts need a container", "no variable",
        "slurm.options: --nodes=3", "slurm.options: nice", "slurm.options: --qos=x", "slurm.judge is who", "by name",
    ):  # fmt: skip
        assert any(part in line for line in told), part
    assert len(told) == 10
    assert list(slurm_violations(compose(["cascade=nano"])[0])) == []


@pytest.fixture
def submit(capsys, tmp_path, monkeypatch):
    """Submit from an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")

    def run(*arguments):
        code = command.main(["submit", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_violations_of_job_and_run_are_one_list_and_a_dry_run_writes_nothing(submit, tmp_path):
    code, _, told = submit("cascade=nano", "--dry", "slurm.options=[nice]", "name=a/b")
    assert code == command.REFUSED
    assert "slurm.options: nice" in told
    assert "name can't be a folder" in told
    code, told, complaint = submit("cascade=nano", "--dry", "cluster.num_nodes=3")
    assert code == 0, complaint
    assert "#SBATCH --nodes=3" in told
    assert "Ray cluster" not in complaint
    assert list(tmp_path.iterdir()) == []
    code, _, told = submit("cascade=nano")
    assert code == command.REFUSED
    assert "there is no Slurm here" in told


# Jobs of a Slurm that remembers one job, in a file.
STAND_INS = {
    "sbatch": 'cp "${@: -1}" job.sbatch; echo RUNNING >state; echo 17',
    "scontrol": 'echo "JobId=17 JobState=$(cat state) Reason=None NodeList=n[1-2] Restarts=3 ExitCode=0:0"',
    "scancel": "echo CANCELLED >state",
    "squeue": "true",
}


def test_a_job_is_handed_in_once_asked_about_and_cancelled(submit, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    code, told, complaint = submit("cascade=nano", "name=r")
    assert code == 0, complaint
    folder = tmp_path / "runs" / "r" / "slurm"
    assert told.strip() == f"job 17: {folder}/job-17.log"
    assert {SCRIPT, *SOURCED, "jobs.jsonl"} == {file.name for file in folder.iterdir()}
    assert (tmp_path / "job.sbatch").read_text() == (folder / SCRIPT).read_text()
    assert json.loads((folder / "jobs.jsonl").read_text())["job"] == "17"

    code, _, complaint = submit("cascade=nano", "name=r")
    assert code == command.REFUSED
    assert "the run has a job already" in complaint
    told = submit("--status", "runs/r")[1]
    assert "job 17: RUNNING, on n[1-2]" in told
    assert "restarts: 3" in told
    (folder / "job-17.log").write_text("phase [done]\n")
    assert "phase [done]" in submit("--logs", "runs/r")[1]
    assert submit("--cancel", "runs/r")[1].strip() == "job 17 is ended"
    assert "CANCELLED" in submit("--status", "runs/r")[1]
    assert submit("cascade=nano", "name=r")[0] == 0
    assert submit("--status", "runs/other")[0] == command.REFUSED


def test_what_only_concerns_the_job_makes_no_other_run():
    one = compose(PAPER)[0]
    other = compose([*PAPER, "slurm.account=x", "slurm.wall_time_minutes=30", "reward.genrm.url=http://a/v1"])[0]
    assert config_hash(one) == config_hash(other)
