"""`nemo-cascade doctor`: what it finds on this machine, on one with GPUs, and on all nodes of an allocation."""

import importlib.metadata
import json
import resource

import pytest

from nemo_cascade.cli.examination import gpus, machine, network, nodes
from nemo_cascade.cli.examination.packages import own_lock
from nemo_cascade.config.checks import host
from nemo_cascade.errors import RuntimeUnavailableError

SMI = """#!/bin/bash
case "$*" in
  *query-gpu*) printf "H100, 81559 MiB, 580.1\\nH100, 81559 MiB, 580.1\\n" ;;
  *nvlink*) for gpu in 0 1; do printf "GPU $gpu: H100\\n\\t Link 0: 26.562 GB/s\\n\\t Link 1: 26.562 GB/s\\n"; done ;;
  *) echo "| NVIDIA-SMI 580.1  Driver Version: 580.1  CUDA Version: 12.9 |" ;;
esac
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Put a program of ours before others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    return put


def found(look):
    return {finding.subject: finding for finding in look()}


def test_a_driver_older_than_torch_s_cuda_is_bad_and_nvlink_is_counted(tool, monkeypatch):
    tool("nvidia-smi", SMI)
    monkeypatch.setattr(host, "gpu_present", lambda: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    told = found(gpus.device)
    assert told["device"].detail == "2 x H100, 81559 MiB, 580.1"
    assert told["cuda"].state == "bad"
    assert told["cuda"].detail == "the driver knows CUDA 12.9, torch was built for 13"
    assert told["nvlink"].detail == "2 links per GPU"
    assert own_lock().name == "gpu.lock"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu126")
    assert found(gpus.device)["cuda"].state == "ok"


def test_limits_and_file_systems_are_those_of_this_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = found(machine.limits)["open files"]
    assert told.detail == f"{soft} open files, may be raised to {hard}"
    assert told.state == ("ok" if hard >= 65535 or hard == resource.RLIM_INFINITY else "absent")
    assert str(tmp_path) in found(machine.file_systems)["working folder"].detail
    monkeypatch.setattr(machine, "_kind_of", lambda folder: "nfs4")
    told = found(machine.file_systems)
    assert told["working folder"].state == "ok"
    assert told["temporary files"].state == "bad"


def test_infiniband_ports_are_counted_by_state(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "gpu_present", lambda: True)
    monkeypatch.setattr(network, "_INFINIBAND", tmp_path)
    assert found(network.infiniband)["infiniband"].state == "absent"
    for name, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN")):
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    told = found(network.infiniband)["infiniband"]
    assert told.state == "ok"
    assert told.detail == "1 of 2 ports active (400 Gb/sec (4X NDR)); mlx5_1: DOWN"


def test_nodes_that_differ_are_named_and_a_clock_that_is_off(tool, monkeypatch):
    same = {"subject": "device", "state": "ok", "detail": "8 x H100", "mend": ""}
    full = {"subject": "/dev/shm", "state": "bad", "detail": "0.1 GiB free", "mend": "clean it"}
    tool("scontrol", "#!/bin/bash\nprintf 'n1\\nn2\\nn3\\n'\n")
    tool(
        "srun",
        "#!/bin/bash\n"
        'case "$*" in\n'
        '  *nodelist=n3*) echo "node is drained" >&2; exit 1 ;;\n'
        '  *nodelist=n2*date*) date --date="-90 seconds" +%s.%N ;;\n'
        "  *date*) date +%s.%N ;;\n"
        f"  *nodelist=n2*) echo '{json.dumps({'facts': {'findings': [same, full]}})}' ;;\n"
        f"  *) echo '{json.dumps({'facts': {'findings': [same]}})}' ;;\n"
        "esac\n",
    )
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    assert nodes.all_nodes() == ["n1", "n2", "n3"]
    told = {finding.subject: finding for finding in nodes.examine(["n1", "n2"], [])}
    assert told["device (all 2 nodes)"].detail == "8 x H100"
    assert told["/dev/shm (n2)"].state == "bad"
    assert "n2 is off by 9" in told["clock"].detail
    told = {finding.subject: finding for finding in nodes.examine(["n3"], [])}
    assert told["node (all 1 nodes)"].detail == "node is drained"
    assert told["clock"].detail == "n3 does not answer"
    monkeypatch.delenv("SLURM_JOB_NODELIST")
    with pytest.raises(RuntimeUnavailableError, match="salloc"):
        nodes.all_nodes()
