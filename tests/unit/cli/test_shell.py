"""What a shell sees of the program: help at once, facts for programs, completion, files told with hashes."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from nemo_cascade.cli import main as command


def facts(capsys, *arguments):
    assert command.main(arguments) == 0
    return json.loads(capsys.readouterr().out)


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
    assert f"nemo-cascade {verb}" in capsys.readouterr().out


def test_facts_are_told_to_programs(capsys):
    plan = facts(capsys, "plan", "cascade=nano", "--json")
    assert [stage["name"] for stage in plan["stages"]][:2] == ["sft1", "sft2"]
    assert plan["lacking"] == []
    (key,) = facts(capsys, "explain", "rollout.max_model_len", "--json")["keys"]
    assert (key["default"], key["unit"]) == ("2048", "tokens")


def test_a_recipe_s_files_are_told_with_hashes_licences_and_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["fetch", "cascade=nemotron_cascade/8b", "--dry", "--json"]) == command.REFUSED
    files = {file["key"]: file for file in json.loads(capsys.readouterr().out)}
    assert "gets Qwen/Qwen3-8B-Base" in files["model.path"]["needs"]
    assert "60 or more rows" in files["evaluation.suites.math.path"]["needs"]
    assert "`answer` for the verifier math" in files["evaluation.suites.math.path"]["needs"]
    assert command.main(["fetch", "cascade=nano", "--json"]) == 0
    files = {file["key"]: file for file in json.loads(capsys.readouterr().out)}
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
