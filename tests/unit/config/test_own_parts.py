"""Environments and kinds of stages of a user's own: held to what they take, all violations at once."""

from dataclasses import asdict
from pathlib import Path

import pytest

from nemo_cascade.cli.main import main
from nemo_cascade.config.checks.own_code import own_code
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.losses.cross_entropy import SftLoss
from nemo_cascade.losses.objective import OwnObjective
from nemo_cascade.rl.rewards import stage_formula
from nemo_cascade.stages.kinds import KINDS, kind_of

SUPPORT = Path(__file__).parents[2] / "support"
STAGE, ENVIRONMENT = f"{SUPPORT}/own_stage.py:Shortest", f"{SUPPORT}/own_environment.py:Lengths"
LOSS = f"{SUPPORT}/own_loss.py:Hinge"
PROMPTS = "prompts: {path: a.jsonl, domain: math, reward: {kind: math}}"
BRIEF = (
    f"+stages.brief={{kind: '{STAGE}', seq_length: 192, steps: 4, optimizer: {{lr: 0.001}}, {PROMPTS}, "
    "sampling: {max_tokens: 12}}"
)


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        compose(["cascade=nano", *overrides])
    return str(caught.value)


def test_a_stage_of_an_own_kind_is_typed_and_has_its_own_work():
    config, _ = compose(["cascade=nano", BRIEF])
    stage = config.stages["brief"]
    assert (type(stage).__name__, stage.steps, stage.num_generations, stage.kind) == ("Shortest", 4, 2, STAGE)
    assert kind_of(stage).run.__name__ == "run"
    assert kind_of(config.stages["math_rl"]) is KINDS["grpo"]
    assert own_code(config) == [STAGE]


def test_it_has_a_place_in_a_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "cascade=nano", BRIEF, "--dry"]) == 0
    assert "brief" in capsys.readouterr().out


def test_what_is_wrong_with_it_is_told_key_by_key_with_the_rest_of_the_run():
    text = refused(BRIEF.replace("steps: 4", "steps: 0, step: 3"), "seed=-1")
    for part in ("stages.brief.steps", "stages.brief.step", "seed"):
        assert part in text
    assert "no such class" in refused(BRIEF.replace("Shortest", "Longest"))
    assert "no kind of stage" in refused(BRIEF.replace("Shortest", "prepare"))
    assert "isn't there" in refused(BRIEF.replace("own_stage.py", "gone.py"))


def test_an_environments_settings_are_held_to_its_constructor_and_filled_in():
    key = "stages.math_rl.tasks.math.environment"
    config, _ = compose(["cascade=nano", f"{key}.kind='{ENVIRONMENT}'", f"{key}.max_turns=3"])
    use = config.stages["math_rl"].tasks["math"].environment.use
    assert (use.name, use.settings, use.max_turns) == (ENVIRONMENT, {"wanted": 3}, 3)
    assert own_code(config) == [ENVIRONMENT]
    assert config.evaluation.suites["math"].environment.use.name == "single_turn"
    text = refused(f"{key}.kind='{ENVIRONMENT}'", f"+{key}.settings.want=3")
    assert "wanted; not want" in text
    assert "wanted" in refused(f"{key}.kind='{ENVIRONMENT}'", f"+{key}.settings.wanted=many")
    gone = refused(f"{key}.kind=gone.py:Lengths")
    assert f"{key}.kind: a plug-in's file isn't there" in gone
    assert "no such class" in refused(f"{key}.kind='{ENVIRONMENT[:-1]}'")
    assert ", or your own" in refused(f"{key}.kind=several_turns")


def test_a_loss_of_ones_own_has_typed_settings_and_takes_the_place_of_a_stages():
    key = "stages.math_rl.objective"
    config, _ = compose(["cascade=nano", f"+{key}={{kind: '{LOSS}'}}"])
    own = config.stages["math_rl"].own_objective()
    assert (own.kind, own.settings) == (LOSS, {"least_gap": 1.0})
    assert own_code(config) == [LOSS]
    assert "least_gap; not gap" in refused(f"+{key}={{kind: '{LOSS}', settings: {{gap: 1.0}}}}")
    assert "least_gap" in refused(f"+{key}={{kind: '{LOSS}', settings: {{least_gap: wide}}}}")
    assert "your own" in refused(f"+{key}={{kind: hinge}}")
    assert "no such class" in refused(f"+{key}={{kind: '{LOSS}s'}}")


@pytest.mark.parametrize("place", [f"{SUPPORT}/own_stage.py:prepare", ENVIRONMENT, STAGE])
def test_what_is_no_objective_is_refused_before_the_run(place):
    with pytest.raises(CascadeError, match=r"can't be made|no objective"):
        OwnObjective(place, {}, SftLoss()).made()
    spec = OwnObjective(LOSS, {"least_gap": 2.0}, SftLoss()).spec()
    assert (spec.unit, spec.whole_documents) == ("pair", True)


def test_plans_and_reports_tell_it_in_place_of_the_stages_loss():
    config, _ = compose(["cascade=nano", f"+stages.math_rl.objective={{kind: '{LOSS}', settings: {{least_gap: 2.0}}}}"])
    assert stage_formula(asdict(config.stages["math_rl"])).endswith("loss = Hinge(least_gap=2.0)")
    steered, _ = compose(
        ["cascade=nano", "stages.math_rl.entropy_target.nats=0.3", f"+stages.math_rl.objective={{kind: '{LOSS}'}}"]
    )
    wrong = [str(problem) for problem in steered.stages["math_rl"].problems(steered, "math_rl")]
    assert any("no entropy that could steer" in problem for problem in wrong)
