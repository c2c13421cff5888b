"""The page that compares runs: differences on the same prompts, forgetting, settings and curves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cli import main as command
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.report.compare import END, differences_between, forgetting, read_arm, write_comparison
from tests.unit.report.test_page import parse


@pytest.fixture
def other(run_folder):
    """Return the same run again, under another name, with a hotter math_rl that solves every math prompt."""
    path = run_folder.path.parent / "hot"
    shutil.copytree(run_folder.path, path)
    target = path / "stages" / "02-math_rl" / "scores.json"
    scores = Scores.load(target)
    solved = {prompt: [1.0, 1.0] for prompt in scores.samples["math"]}
    Scores({**scores.samples, "math": solved}).save(target)
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("name: trial", "name: hot").replace("steps: 40", "steps: 80"))
    return path


def go_on(path, stage="02-math_rl"):
    gate = path / "stages" / stage / "gate.json"
    replace(Decision.load(gate), outcome="promote").save(gate)


def test_runs_are_compared_stage_by_stage_on_the_same_prompts(run_folder, other):
    go_on(other)
    first, second = read_arm(run_folder.path), read_arm(other)
    assert (first.end, second.end) == ("sft1", "math_rl")
    found = {(entry.what, entry.domain): entry for entry in differences_between(first, second)}
    assert {stage for stage, _ in found} == {"sft1", "math_rl", END}
    old, new = (arm.scores["math_rl"].domain("math").score_n for arm in (first, second))
    entry = found["math_rl", "math"]
    assert entry.paired.difference == pytest.approx((new - old).mean())
    assert (entry.tone, entry.paired.n) == ("up", 60)
    assert found["math_rl", "code"].paired.difference == 0
    assert found["sft1", "math"].tone == "flat"
    ends = found[END, "code"]
    assert ends.before == first.scores["sft1"].summary()["code"]["score"]
    assert ends.after == second.scores["math_rl"].summary()["code"]["score"]
    assert ends.tone == "down"


def test_forgetting_is_measured_from_the_last_stage_that_promised_the_domain(other):
    go_on(other)
    arm = read_arm(other)
    # math_rl promised math and is the end; sft1 promised math and instruction; code was promised by none that is done.
    (entry,) = forgetting(arm)
    assert (entry.what, entry.domain) == ("sft1 to math_rl", "instruction")
    then, now = (arm.scores[s].domain("instruction").score_n for s in ("sft1", "math_rl"))
    assert entry.paired.difference == pytest.approx((now - then).mean())


def test_the_page_is_self_contained_and_shows_differences_settings_and_curves(run_folder, other, capsys):
    assert command.main(["report", str(run_folder.path), str(other)]) == 0
    page = run_folder.path.parent / "compare-trial-hot.html"
    assert str(page) in capsys.readouterr().out.replace("\n", "")
    outline = parse(page)
    text = " ".join(" ".join(outline.text).split())
    assert (outline.references, outline.scripts) == ([], 0)
    assert "stages.math_rl.steps 40 80" in text
    assert "stages.math_rl.optimizer.lr" not in text
    assert "▲" in text
    # Three domains; the charts of sft1 and of each RL stage, both runs in each.
    assert outline.svgs >= 3 + 4 + 2 * 9
    assert page.read_bytes() == write_comparison([run_folder.path, other], page).read_bytes()


def test_other_prompts_are_not_compared_and_it_is_said(run_folder, other):
    target = other / "stages" / "01-sft1" / "scores.json"
    scores = Scores.load(target)
    renamed = {f"new/{i}": row for i, row in enumerate(scores.samples["code"].values())}
    Scores({**scores.samples, "code": renamed}).save(target)
    found = differences_between(read_arm(run_folder.path), read_arm(other))
    assert [(e.what, e.domain) for e in found if e.paired is None] == [("sft1", "code"), (END, "code")]
    assert np.isfinite([e.after for e in found]).all()
    page = write_comparison([run_folder.path, other], run_folder.path.parent / "page.html")
    assert "scored on different prompts: not compared" in page.read_text()


def test_runs_of_one_name_are_told_apart_by_the_folders_above(run_folder, tmp_path):
    again = tmp_path / "again" / run_folder.name
    shutil.copytree(run_folder.path, again)
    page = write_comparison([run_folder.path, again], tmp_path / "page.html").read_text()
    assert f"again/{run_folder.name}" in page
    assert f"{run_folder.path.parent.name}/{run_folder.name}" in page


def test_a_folder_named_twice_or_without_a_run_is_refused(run_folder, tmp_path):
    with pytest.raises(RunFolderError, match="a run twice"):
        write_comparison([run_folder.path, run_folder.path], tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="no run folder"):
        write_comparison([run_folder.path, tmp_path / "empty"], tmp_path / "page.html")
