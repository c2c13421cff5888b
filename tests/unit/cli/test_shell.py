"""What a shell sees of the program: help at once, facts for programs, completion, files told with hashes."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.cli import main as command
from tests.support.decided_run import decided_run


def facts(capsys, *arguments):
    assert command.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["verb", "exit_code", "facts", "tables", "lines", "refusals"]
    assert (told["verb"], told["exit_code"], told["refusals"]) == (arguments[0], 0, [])
    return told["facts"]


def test_help_comes_without_importing_what_runs_need():
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code = (
        "import sys; from nemo_cascade.cli.main import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert "exit codes" in told
    assert all(f"    {verb}" in told for verb in command.VERBS)
    assert not {"numpy", "hydra", "torch", "pyarrow", "scipy"} & set(told.replace("'", "").split(", "))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 0.5


@pytest.mark.parametrize("verb", command.VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([verb, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"nemo-cascade {verb}" in told
    assert ("--json" in told) == (verb not in ("view", "completion"))


def test_facts_are_told_to_programs(capsys):
    plan = facts(capsys, "plan", "cascade=nano", "--json")
    assert [stage["name"] for stage in plan["stages"]][:2] == ["sft1", "sft2"]
    assert plan["lacking"] == []
    (key,) = facts(capsys, "explain", "rollout.max_model_len", "--json")["keys"]
    assert (key["default"], key["unit"]) == ("2048", "tokens")


def test_a_decided_run_is_told_to_programs_as_people_are_told_of_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decided_run(tmp_path / "runs")
    dry = facts(capsys, "run", "cascade=nano", "--dry", "--json")
    assert dry == facts(capsys, "plan", "cascade=nano", "--json")
    report = facts(capsys, "report", "runs/nano", "--json")
    assert report["held_after"] == "math_rl"
    assert {row["name"]: row["outcome"] for row in report["stages"]}["math_rl"] == "hold"
    assert Path(report["page"]).is_file()
    ruled = facts(capsys, "decide", "runs/nano", "--stage", "math_rl", "--accept", "--because", "so", "--json")
    assert ruled["command"].startswith("nemo-cascade run")
    fork = ("fork", "runs/nano", "--at", "math_rl", "name=hot", "--dry", "--json")
    assert facts(capsys, *fork)["name"] == "hot"
    assert facts(capsys, "submit", "cascade=nano", "--dry", "--json")["script"].startswith("#!")


def test_tables_and_refusals_are_told_to_programs_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["plan", "cascade=nano", "--optimize", "gpus=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(row["overrides"].startswith("parallel.") for row in told["tables"][0]["rows"])
    assert command.main(["plan", "cascade=nano", "seed=-1", "gate.on_regression=hld", "--json"]) == command.REFUSED
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], len(told["refusals"]), told["facts"]) == (command.REFUSED, 2, {})
    assert command.main(["report", "runs/none", "--json"]) == command.REFUSED
    assert "no run folder" in json.loads(capsys.readouterr().out)["refusals"][0]


def test_a_recipe_s_files_are_told_with_hashes_licences_and_what_is_missing(capsys, tmp_path, data_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["fetch", "cascade=nemotron_cascade/8b", "--dry", "--json"]) == command.REFUSED
    files = {file["key"]: file for file in json.loads(capsys.readouterr().out)["facts"]["files"]}
    assert "gets Qwen/Qwen3-8B-Base" in files["model.path"]["needs"]
    assert "60 or more rows" in files["evaluation.suites.math.path"]["needs"]
    assert "`answer` for the verifier math" in files["evaluation.suites.math.path"]["needs"]
    files = {
        file["key"]: file for file in facts(capsys, "fetch", "cascade=nano", f"data_dir={data_dir}", "--json")["files"]
    }
    test_set = files["evaluation.suites.math.path"]
    assert (test_set["state"], test_set["licence"]) == ("there", "written by this program")
    assert len(test_set["hash"]) == 64
    assert test_set["bytes"] > 1000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nemo-cascade pre", "prepare"),
        ("nemo-cascade run cascade=nano_r", "nano_rlhf"),
        ("nemo-cascade run rollout.max_model", "rollout.max_model_len="),
        ("nemo-cascade run stages.math_rl.optimizer.l", "stages.math_rl.optimizer.lr="),
    ],
)
def test_bash_completes_verbs_groups_and_keys(capsys, tmp_path, line, expected):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    assert command.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = "source ./script; COMP_LINE=$1; COMP_POINT=${#1}; COMP_CWORD=$2; compopt() { :; }; "
    ask += '_nemo_cascade; echo "${COMPREPLY[@]}"'
    place = str(len(line.split()) - 1)
    told = subprocess.run(
        ["bash", "-c", ask, "bash", line, place], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert expected in told.stdout.split(), told.stderr


def test_a_terminal_of_ascii_and_a_closed_standard_output_are_no_defect():
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "LC_ALL": "C"}
    line = [sys.executable, "-m", "nemo_cascade", "plan", "cascade=nano"]
    told = subprocess.run(line, env=plain, capture_output=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert told.stdout.isascii()
    assert b"\x1b" not in told.stdout
    closed = subprocess.run(["bash", "-c", f"{' '.join(line)} >&-"], env=plain, capture_output=True, timeout=120)
    assert (closed.returncode, closed.stderr) == (0, b"")
