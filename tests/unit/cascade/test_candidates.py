"""Every ending of a gate, on a scripted cascade; the real parts are in tests/e2e/test_provoked_regression.py."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_cascade.cascade import runner
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.report.matrix import collect_matrix
from nemo_cascade.stages.kinds import KINDS
from tests.unit.cascade.scripted import BAD, GOOD, LAST, START, World

GOOD_MODELS = ("step_000002", "step_000004")


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def world(config, tmp_path, monkeypatch):
    return lambda checkpoints=GOOD, **gate: World(config, tmp_path, monkeypatch, checkpoints, **gate)


def ask(outcome):
    return {"stage_gate": GateOverride(on_regression=outcome)}


@pytest.mark.parametrize(
    ("on_regression", "checkpoints", "outcome", "model", "stage", "next_starts_from"),
    [
        ("rollback", GOOD, "rollback", "last", LAST, START),
        ("promote", GOOD, "promote", "last", LAST, LAST),
        ("checkpoint", GOOD, "recover", "step_000004", (70, 45), (70, 45)),
        ("checkpoint", BAD, "rollback", "last", LAST, START),
        # 0.1 doesn't raise math enough to tell, 0.5 loses 20 of 50 in code; 0.25 keeps both promises.
        ("merge", BAD, "recover", "merge_0.25", (50, 40), (50, 40)),
        ("merge", {6: (40, 10)}, "rollback", "last", (40, 10), START),
        ("recover", GOOD, "recover", "step_000004", (70, 45), (70, 45)),
        ("recover", BAD, "recover", "merge_0.25", (50, 40), (50, 40)),
        ("recover", {4: (40, 50), 6: (40, 10)}, "rollback", "last", (40, 10), START),
    ],
)
def test_a_broken_promise_ends_as_configured(
    world, on_regression, checkpoints, outcome, model, stage, next_starts_from
):
    scene = world(checkpoints, **ask(on_regression))
    assert scene.run() == 0
    assert scene.result == (outcome, model, stage, next_starts_from)
    decided = next(r for r in scene.runner().ledger.records if r.event == "decided" and r.stage == "math_rl")
    assert (decided.details["outcome"], decided.details["model"]) == (outcome, model)
    assert "code fell by more than 0.05, significantly: 0.500 -> 0.100" in decided.details["reason"]
    others = len(checkpoints) - 1
    tried = {"checkpoint": others, "merge": 3, "recover": others + 3 * (model not in GOOD_MODELS)}.get(on_regression, 0)
    assert len(decided.details.get("tried", {})) == tried
    page = (scene.folder.path / "report.html").read_text()
    assert ("Other models of this stage" in page) == (tried > 0)
    assert list(scene.folder.stage(1, "math_rl").glob("candidates/*/hf")) == []
    shown = {row.stage: row.cells["code"].score for row in collect_matrix(scene.folder).rows}
    assert shown["math_rl"] == stage[1] / 100


def test_a_held_cascade_stops_there(world):
    scene = world(**ask("hold"))
    assert scene.run() == runner.HELD
    assert scene.result == ("hold", "last", LAST, START)
    assert [name for name, *_ in scene.parents] == ["math_rl"]


@pytest.mark.parametrize(("on_regression", "checkpoint"), [("checkpoint", "step_000004"), ("merge", None)])
def test_the_next_stage_is_handed_the_checkpoint_of_what_was_chosen(world, on_regression, checkpoint):
    scene = world(**ask(on_regression))
    scene.run()
    handed = scene.parents[-1][2]
    assert (handed.name if handed else None) == checkpoint


def test_the_best_checkpoint_becomes_the_stages_result_before_the_gate(world):
    scene = world({2: (90, 48), 4: (70, 45), 6: (80, 46)}, select="best", select_prompts=50)
    assert scene.run() == 0
    assert scene.result == ("promote", "step_000002", (90, 48), (90, 48))
    selected = scene.runner().ledger.find("selected", "math_rl").details
    assert selected["model"] == "step_000002"
    assert list(selected["merits"]) == ["last", "step_000004", "step_000002"]
    assert scene.scored[:5] == ["start", "math_rl last", "math_rl step_000004", "math_rl step_000002", "math_rl"]


def test_a_damaged_checkpoint_is_no_candidate(world):
    scene = world(**ask("checkpoint"))
    damage = scene.folder.stage(1, "math_rl") / "checkpoints" / "step_000004" / "skill.json"
    train = scene.train

    def train_and_damage(context, stage):
        train(context, stage)
        if damage.exists():
            damage.write_text("[99, 99]")

    KINDS["grpo"] = replace(KINDS["grpo"], run=train_and_damage)  # the fixture puts it back
    scene.run()
    assert scene.result[:3] == ("recover", "step_000002", (60, 48))
    assert "step_000004/skill.json" in scene.runner().ledger.find("checkpoint_refused", "math_rl").details["reason"]


@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("on_regression", ["checkpoint", "merge", "recover"])
def test_killed_at_any_write_and_resumed_it_ends_the_same(config, tmp_path, monkeypatch, select, on_regression):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    undisturbed = World(config, tmp_path / "whole", monkeypatch, GOOD, select=select, **ask(on_regression))
    assert undisturbed.run() == 0
    scene = World(config, tmp_path / "killed", monkeypatch, GOOD, select=select, **ask(on_regression))
    # Every rename of a folder and of a file is a place to die: just before it, once each.
    real, seen, died = Path.rename, [], set()

    def plain(name):
        return re.sub(r"\.[^.]+(?=\.unfinished$)", "", name)

    def rename(self, target):
        names = plain(self.name), plain(Path(target).name)
        place = (*names, seen.count(names))
        if place not in died and "math_rl" in str(target):
            died.add(place)
            raise Killed
        seen.append(names)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    for _ in range(200):
        try:
            code = scene.run()
            break
        except Killed:
            seen.clear()
    monkeypatch.setattr(Path, "rename", real)
    assert code == 0
    assert len(died) >= 8
    assert scene.result == undisturbed.result
    decisions = [json.loads((w.folder.stage(1, "math_rl") / "gate.json").read_text()) for w in (scene, undisturbed)]
    assert decisions[0] == decisions[1]
    scores = [json.loads(w.folder.scores.read_text()) for w in (scene, undisturbed)]
    assert scores[0] == scores[1]
