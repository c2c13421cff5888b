"""A stage with a far too high learning rate, on the real stack: caught by its gate, and what users type then."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.cascade.ledger import read_ledger
from nemo_cascade.cascade.runner import HELD
from tests.e2e.cascade_process import finish, start, tail

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

# SFT teaches polite replies, which takes a hundred steps; the next stage forgets them at once; RL goes on from SFT.
PROVOKED = [
    "+evaluation.suites.chat={path: '${data_dir}/nano/preference_test.jsonl', reward: {kind: nano_quality}, "
    "num_prompts: 40, mode: no_think, sampling: {max_tokens: 32}}",
    "stages.sft1.data.sources=[{path: '${data_dir}/nano/preference_sft.jsonl'}]",
    "stages.sft1.max_steps=120",
    "stages.sft1.checkpoint_every=120",
    "stages.sft1.promise={improve: [chat], hold: []}",
    "stages.sft2.data.sources=[{path: '${data_dir}/nano/preference_sft.jsonl'}]",
    "stages.sft2.optimizer={lr: 0.5, lr_warmup_steps: 0, min_lr: 0.5}",
    "stages.sft2.promise={improve: [], hold: ['*']}",
    "stages.math_rl.steps=1",
    "stages.math_rl.promise={improve: [], hold: []}",
    "gate.on_regression=hold",
]


def told(text: str, option: str) -> list[str]:
    """Return the words of the command with this option, as a user copies it from a log."""
    line = next(line for line in text.splitlines() if option in line and "nemo-cascade" in line)
    return shlex.split(line[line.index("nemo-cascade") :])


def type_in(words: list[str], log: Path) -> tuple[int, str]:
    """Type a command; return its exit code and what it wrote."""
    assert words[0] == "nemo-cascade"
    command, environment = [sys.executable, "-m", "nemo_cascade", *words[1:]], {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    return finish(process, log), log.read_text()


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Return a run folder that its gate holds after SFT 2, a copy of it, and what the run wrote."""
    folder = tmp_path_factory.mktemp("held")
    log = folder / "provoked.log"
    assert finish(start(folder, "provoked", *PROVOKED), log) == HELD, tail(log)
    run = folder / "provoked"
    scores = json.loads((run / "scores.json").read_text())
    assert scores["sft2"]["chat"]["score"] < scores["sft1"]["chat"]["score"] - 0.2, scores
    shutil.copytree(run, folder / "as_held")
    return run, folder / "as_held", log.read_text()


def as_held(held):
    """Put the run back to where its gate held it; return its folder and what it wrote then."""
    run, copy, first = held
    shutil.rmtree(run)
    shutil.copytree(copy, run)
    return run, first


def decisions(run):
    """Return (stage, outcome) of every decision in the ledger."""
    return [(r.stage, r.details["outcome"]) for r in read_ledger(run / "ledger.jsonl") if r.event == "decided"]


def test_a_regression_holds_the_cascade_until_a_command_that_was_told_takes_it_on_to_its_end(held, tmp_path):
    run, first = as_held(held)
    log = tmp_path / "log"

    # The same command again says the same; a plan says where the run stands.
    again = told(first, "nemo-cascade run")
    code, text = type_in(again, tmp_path / "again.log")
    assert code == HELD, text
    assert told(text, "--recover") == told(first, "--recover")
    assert "held after sft2" in type_in([*again, "--dry"], tmp_path / "dry.log")[1]

    assert type_in(told(first, "--recover"), tmp_path / "decide.log")[0] == 0
    code, text = type_in(again, log)
    assert code == 0, text
    assert "3 of 3 stages decided: 2 promoted, 1 rolled back (sft2)" in text

    records = read_ledger(run / "ledger.jsonl")
    assert decisions(run) == [("sft1", "promote"), ("sft2", "hold"), ("sft2", "rollback"), ("math_rl", "promote")]
    last = next(r.details for r in reversed(records) if r.stage == "sft2" and r.event == "decided")
    assert last["reason"].startswith("chat fell by more than 0.02, significantly")
    assert set(last["tried"]) == {"step_000006", "merge_0.25", "merge_0.5", "merge_0.75"}
    started = {r.stage: r.details for r in records if r.event == "stage_started"}
    trained = {r.stage: r.details["weights"] for r in records if r.event == "trained"}
    assert (started["math_rl"]["parent"], started["math_rl"]["weights"]) == ("sft1", trained["sft1"])
    page = (run / "report.html").read_text()
    for words in ("rolled back", "chat fell by more than 0.02", "another model was asked for by hand: why"):
        assert words in page


# Each ruling on a scripted cascade: tests/unit/cascade/test_rulings.py.
@pytest.mark.long
@pytest.mark.parametrize(
    ("option", "outcome", "goes_on_from"), [("--accept", "promote", "sft2"), ("--rollback", "rollback", "sft1")]
)
def test_a_hold_is_ruled_away_by_the_commands_that_were_told(held, tmp_path, option, outcome, goes_on_from):
    run, first = as_held(held)
    assert type_in(told(first, option), tmp_path / "decide.log")[0] == 0
    code, text = type_in(told(first, "nemo-cascade run"), tmp_path / "log")
    assert code == 0, text
    assert decisions(run) == [("sft1", "promote"), ("sft2", "hold"), ("sft2", outcome), ("math_rl", "promote")]
    started = {r.stage: r.details["parent"] for r in read_ledger(run / "ledger.jsonl") if r.event == "stage_started"}
    assert started["math_rl"] == goes_on_from
    assert "by hand: why" in (run / "report.html").read_text()


@pytest.mark.long
def test_a_held_stage_is_made_anew_by_the_command_that_was_told(held, tmp_path):
    run, first = as_held(held)
    mended = ["stages.sft2.optimizer={lr: 1e-3, lr_warmup_steps: 0, min_lr: 1e-3}", "~stages.math_rl"]
    code, text = type_in([*told(first, "nemo-cascade fork"), *mended], tmp_path / "log")
    assert code == 0, text
    anew = run.with_name("provoked-sft2-anew")
    assert decisions(anew) == [("sft1", "promote"), ("sft2", "promote")]
    assert decisions(run) == [("sft1", "promote"), ("sft2", "hold")]
