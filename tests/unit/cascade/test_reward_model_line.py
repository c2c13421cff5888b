"""The runner around a reward model: who starts from whom, who is scored with what, also after a crash.

Training and scoring are stand-ins here; tests/distributed has the real ones.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from nemo_cascade.cascade import runner as running
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.inputs import Inputs
from nemo_cascade.config.stage import GrpoStage, RewardModelStage, SftStage
from nemo_cascade.evaluation.preference import preference_scores
from nemo_cascade.evaluation.scores import Scores


class Crash(Exception):
    pass


@pytest.fixture
def cascade(with_reward_model, tmp_path):
    suites = dict(with_reward_model.evaluation.suites)
    suites["code"] = replace(suites["code"], verifier="preference", reward={}, reward_model="rm")
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
        if isinstance(stage, RewardModelStage):
            preference_scores(asked["margins"]).save(context.folder / "preference.json")

    def evaluate(config, roles, hf, version, label, suites, reward_models):
        asked["scored"].append((label, sorted(suites), sorted(reward_models)))
        return Scores({domain: {f"{domain}/{i}": [float(i % 2)] for i in range(10)} for domain in suites})

    monkeypatch.setattr(running, "RUN_STAGE", dict.fromkeys((SftStage, RewardModelStage, GrpoStage), train))
    monkeypatch.setattr(running, "evaluate", evaluate)
    monkeypatch.setattr(running, "Roles", lambda *_: nullcontext())
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


def test_a_reward_model_below_its_bar_holds_the_cascade(cascade, stand_ins, tmp_path):
    stand_ins["margins"] = [1.0, -1.0]
    gate = replace(cascade.gate, on_regression="hold")
    unpromised = {
        name: replace(stage, promise=replace(stage.promise, improve=[])) for name, stage in cascade.stages.items()
    }
    held = replace(cascade, gate=gate, stages=unpromised)
    assert run(held, tmp_path) == running.HELD
    assert [name for name, _, _ in stand_ins["trained"]] == ["sft1", "rm"]
