"""The runner around a reward model: who starts from whom, who is scored with what, also after a crash.

Training and scoring are stand-ins here; tests/distributed has the real ones.
"""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nemo_cascade.cascade import candidates as recovering
from nemo_cascade.cascade import runner as running
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.inputs import Inputs
from nemo_cascade.cascade.ledger import read_ledger
from nemo_cascade.cascade.rulings import rule
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.evaluation.preference import PreferenceScores, preference_scores
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.report.story import outcome_line
from nemo_cascade.stages.kinds import KINDS
from nemo_cascade.telemetry.metrics import MetricsLog
from nemo_cascade.training.checkpoints.folders import CheckpointStore


class Crash(Exception):
    pass


@pytest.fixture
def cascade(with_reward_model, tmp_path):
    suites = dict(with_reward_model.evaluation.suites)
    suites["code"] = replace(suites["code"], reward={"kind": "preference"}, reward_model="rm")
    return replace(
        with_reward_model,
        runs_dir=str(tmp_path / "runs"),
        evaluation=replace(with_reward_model.evaluation, suites=suites),
        gate=replace(with_reward_model.gate, on_regression="promote"),
    )


@pytest.fixture
def stand_ins(monkeypatch):
    """Replace training, scoring and actors; return what was asked of them, and a switch that makes a stage crash."""
    asked = {"trained": [], "scored": [], "crash_in": None, "margins": [1.0] * 9 + [-1.0]}

    def train(context, stage):
        if context.name == asked["crash_in"]:
            raise Crash
        asked["trained"].append((context.name, context.parent_hf.parent.name, dict(context.reward_models)))
        context.hf_folder.mkdir(parents=True)
        (context.hf_folder / "config.json").write_text(context.name)
        if stage.kind == "reward_model":
            preference_scores(asked["margins"]).save(context.folder / "preference.json")

    def evaluate(config, roles, hf, version, label, suites, reward_models):
        asked["scored"].append((label, sorted(suites), sorted(reward_models)))
        return Scores({domain: {f"{domain}/{i}": [float(i % 2)] for i in range(10)} for domain in suites})

    for kind, parts in KINDS.items():
        monkeypatch.setitem(KINDS, kind, replace(parts, run=train))
    monkeypatch.setattr(running, "evaluate", evaluate)
    monkeypatch.setattr(running, "Roles", lambda *_: nullcontext(SimpleNamespace(make_room=lambda stage: None)))
    return asked


def run(config, tmp_path):
    start = tmp_path / "start" / "hf"
    start.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(tmp_path / "runs" / config.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    return running.CascadeRunner(config, folder, Inputs(start, tmp_path / "tokenised")).run()


def test_the_policy_goes_on_past_the_reward_model_and_is_scored_by_it(cascade, stand_ins, tmp_path):
    assert run(cascade, tmp_path) == 0
    reward = {"rm": tmp_path / "runs" / "trial" / "stages" / "02-rm" / "hf"}
    assert stand_ins["trained"] == [
        ("sft1", "start", {}),
        ("rm", "01-sft1", {}),
        ("math_rl", "01-sft1", reward),
        ("code_rl", "03-math_rl", reward),
    ]
    everything = ["code", "instruction", "math"]
    assert stand_ins["scored"] == [
        ("start", ["instruction", "math"], []),
        ("sft1", ["instruction", "math"], []),
        ("sft1", ["code"], ["rm"]),  # the policy as it stands is scored anew, on what had to wait
        ("math_rl", everything, ["rm"]),
        ("code_rl", everything, ["rm"]),
    ]


@pytest.mark.parametrize("stage", ["rm", "math_rl", "code_rl"])
def test_a_run_that_crashed_asks_for_the_same_in_the_end(cascade, stand_ins, tmp_path, stage):
    stand_ins["crash_in"] = stage
    with pytest.raises(Crash):
        run(cascade, tmp_path)
    stand_ins["crash_in"] = None
    assert run(cascade, tmp_path) == 0
    crashed = (stand_ins["trained"], stand_ins["scored"])
    assert [name for name, _, _ in crashed[0]] == ["sft1", "rm", "math_rl", "code_rl"]
    assert [label for label, _, _ in crashed[1]] == ["start", "sft1", "sft1", "math_rl", "code_rl"]
    assert crashed[0][2][1] == "01-sft1"
    assert sorted(crashed[0][2][2]) == ["rm"]


POOR = [1.0] * 40 + [-1.0] * 60


def below_its_bar(cascade, stand_ins, on_regression, needs=None):
    """Return a cascade whose reward model fails; nothing else is promised; `needs` is a stage that needs it."""
    stand_ins["margins"] = POOR
    stages = {name: replace(stage, promise=PromiseConfig(hold=[])) for name, stage in cascade.stages.items()}
    if needs:
        stages[needs] = replace(stages[needs], reward_model="rm")
    return replace(cascade, gate=replace(cascade.gate, on_regression=on_regression), stages=stages)


def test_a_reward_model_below_its_bar_holds_the_cascade_until_it_is_accepted(cascade, stand_ins, tmp_path):
    held = below_its_bar(cascade, stand_ins, "hold")
    assert run(held, tmp_path) == running.HELD
    assert [name for name, _, _ in stand_ins["trained"]] == ["sft1", "rm"]
    folder = tmp_path / "runs" / "trial"
    RunFolder(folder).write_record(held, {"overrides": []})
    rule(folder, "rm", "accept", "good enough to look at")
    assert run(held, tmp_path) == 0
    assert [name for name, _, _ in stand_ins["trained"]] == ["sft1", "rm", "math_rl", "code_rl"]
    assert ("code_rl", ["code", "instruction", "math"], ["rm"]) in stand_ins["scored"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_reward_model_that_is_rolled_back_takes_along_what_needs_it_and_the_cascade_ends(
    cascade, stand_ins, tmp_path, by_hand
):
    config = below_its_bar(cascade, stand_ins, "hold" if by_hand else "rollback", needs="math_rl")
    folder = tmp_path / "runs" / "trial"
    if by_hand:
        assert run(config, tmp_path) == running.HELD
        RunFolder(folder).write_record(config, {"overrides": []})
        rule(folder, "rm", "rollback", "hopeless")
    assert run(config, tmp_path) == 0
    assert run(config, tmp_path) == 0
    assert [(name, parent) for name, parent, _ in stand_ins["trained"]] == [
        ("sft1", "start"), ("rm", "01-sft1"), ("code_rl", "01-sft1")
    ]  # fmt: skip
    assert all("code" not in suites for _, suites, _ in stand_ins["scored"])
    records = read_ledger(folder / "ledger.jsonl")
    line = outcome_line(records, list(config.stages))
    assert line == "4 of 4 stages decided: 2 promoted, 1 rolled back (rm), 1 skipped (math_rl)"
    assert "its reward model rm was rolled back" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("accuracy", "outcome"), [(0.9, "recover"), (0.45, "rollback")])
def test_a_reward_model_is_recovered_by_its_best_kept_checkpoint(
    cascade, stand_ins, monkeypatch, tmp_path, accuracy, outcome
):
    config = below_its_bar(cascade, stand_ins, "recover")
    kind, adopted = KINDS["reward_model"], []

    def train_with_checkpoints(context, stage):
        kind.run(context, stage)
        store = CheckpointStore(context.folder / "checkpoints", keep=3)
        log = MetricsLog(context.folder / "metrics.jsonl")
        for step, found in ((2, 0.3), (4, accuracy), (6, 0.4)):
            with store.saving(step) as folder:
                (folder / "weights").write_text(str(step))
            log.log(step, {"holdout_accuracy": found})

    def adopt(context, stage, checkpoint):
        adopted.append(checkpoint.name)
        right = round(100 * accuracy)
        return preference_scores([1.0] * right + [-1.0] * (100 - right))

    monkeypatch.setitem(KINDS, "reward_model", replace(kind, run=train_with_checkpoints))
    monkeypatch.setattr(recovering, "adopt_checkpoint", adopt)
    assert run(config, tmp_path) == 0
    decided = [r for r in read_ledger(tmp_path / "runs" / "trial" / "ledger.jsonl") if r.event == "decided"]
    details = next(r.details for r in decided if r.stage == "rm")
    assert details["outcome"] == outcome
    assert details["model"] == ("step_000004" if outcome == "recover" else "last")
    assert adopted == (["step_000004"] if outcome == "recover" else [])
    measured = PreferenceScores.load(tmp_path / "runs" / "trial" / "stages" / "02-rm" / "preference.json")
    assert measured.accuracy == (0.9 if outcome == "recover" else 0.4)
