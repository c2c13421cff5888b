"""A task's or a suite's `reward`: held to its verifier's settings before anything starts, for itself alone."""

import inspect
from dataclasses import asdict, fields

import pytest

from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading import keys
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.explain import explain
from nemo_cascade.config.reading.strict import to_run_config
from nemo_cascade.config.verifiers.kinds import SETTINGS, MathSettings, golden_settings, settings_block
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.rewards.registry import VERIFIERS, build_verifier, verifier_class

MATH = "stages.math_rl.tasks.math.reward"
_JUDGE = {"url": "http://judge:8000/v1", "model": "judge"}
_MINIMAL = {"mix": {"terms": [{"reward": {"kind": "math"}}]}, "rubric": {"judge": _JUDGE}}


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        compose(["cascade=nano", *overrides])
    return [str(violation) for violation in caught.value.violations]


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_verifier_takes_just_the_settings_that_are_declared_with_just_their_defaults(verifier):
    block = SETTINGS[verifier]
    made = verifier_class(VERIFIERS[verifier]).__init__
    taken = {} if made is object.__init__ else dict(list(inspect.signature(made).parameters.items())[1:])
    taken = {
        name: parameter.default
        for name, parameter in taken.items()
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    }
    assert set(taken) == {field.name for field in fields(block)} - {"kind"}
    settings = settings_block(verifier)(**_MINIMAL.get(verifier, {}))
    for name, default in taken.items():
        # An empty sequence and an empty list are one to a configuration.
        same = getattr(settings, name) == default or (not default and not getattr(settings, name))
        assert same or default is inspect.Parameter.empty, name
    made_of_all = build_verifier(VERIFIERS[verifier], settings.options)
    assert getattr(made_of_all, "needs_s", 0.0) == settings.needs_s
    assert block.limits <= set(taken)
    assert settings.kind == verifier


def test_every_setting_says_what_it_means():
    for block in SETTINGS.values():
        assert all(field.meaning for field in keys.fields_of(block))


def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant():
    meant = f"did you mean {MATH}.mixed_language_score?"
    for plus in ("", "+", "++"):
        assert any(meant in line for line in refused(f"{plus}{MATH}.mixed_langage_score=-1"))
    [line] = refused(f"++{MATH}={{mixed_langage_score:-1}}")
    assert meant in line
    assert f"++{MATH}" in line  # where it comes from
    assert any(
        "evaluation.suites.code.reward.max_tests" in line
        for line in refused("evaluation.suites.code.reward.max_test=3")
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{MATH}.mixed_language_score=low", "does not fit"),
        (f"{MATH}.per_test_s=3", "unknown key"),  # code's
        ("evaluation.suites.code.reward.max_tests=0", "greater than 0"),
        ("evaluation.suites.code.reward.max_tests=2.5", "valid integer"),
        ("evaluation.suites.instruction.reward.mode=lose", "reward.mode=loose?"),
        ("stages.rlhf.tasks.chat.reward.weight=1", "unknown key"),  # preference has none
        ("evaluation.suites.swe.reward.otherwise=judge", "judge={url, model} with otherwise=judge"),
        ("evaluation.suites.swe.reward={otherwise:judge,judge:{url:x}}", "reward.judge.model is missing"),
        ("evaluation.suites.swe.reward.judge.urll=x", "did you mean evaluation.suites.swe.reward.judge.url?"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(override, words):
    assert any(words in line for line in refused(override)), refused(override)


def test_a_composition_is_checked_down_to_its_parts():
    place = "++evaluation.suites.math={reward:{kind:mix%s}}"
    assert any("reward.terms is missing" in line for line in refused(place % ""))
    assert any("reward.kind=math?" in line for line in refused(place % ",terms:[{reward:{kind:maths}}]"))
    assert any("no part of a mix; got: mix" in line for line in refused(place % ",terms:[{reward:{kind:mix}}]"))
    wrong = refused(place % ",terms:[{reward:{kind:math,langage:ru}}]")
    assert any("did you mean evaluation.suites.math.reward.terms.0.reward.language?" in line for line in wrong)
    swapped = refused(place % ",terms:[{reward:{kind:math}}],clip:[1,0]")
    assert any("clip=[lowest, highest]" in line for line in swapped)
    deadline = "++reward.deadlines.mix=60"
    config, _ = compose(["cascade=nano", deadline, place % ",terms:[{reward:{kind:code,total_s:9}}]"])
    assert config.evaluation.suites["math"].reward.terms[0].reward.max_tests == 50
    assert any("reward.deadlines.mix=60" in str(v) for v in violations(config)) is False
    config, _ = compose(["cascade=nano", deadline, place % ",terms:[{reward:{kind:code,total_s:12}}]"])
    assert any("under reward.deadlines.mix=60" in str(v) for v in violations(config))


def test_a_reward_needs_a_kind():
    [line] = refused("~evaluation.suites.code.reward.kind")
    assert "evaluation.suites.code.reward.kind: no verifier is named; got: nothing; allowed: math, code" in line
    [line] = refused("evaluation.suites.code.reward=code")
    assert "evaluation.suites.code.reward does not fit" in line


def test_a_suite_does_not_judge_by_the_settings_of_training():
    config, provenance = compose(["cascade=nano", f"{MATH}.mixed_language_score=-1"])
    assert config.stages["math_rl"].tasks["math"].reward == MathSettings(mixed_language_score=-1.0)
    assert config.evaluation.suites["math"].reward == MathSettings()
    assert provenance["origins"][f"{MATH}.mixed_language_score"].startswith("command line")
    assert provenance["origins"][f"{MATH}.language"] == "schema default"
    # What is kept with a run is read back as it was.
    assert to_run_config(asdict(config)) == config


@pytest.mark.parametrize("recipe", ["8b", "8b_thinking", "14b_thinking"])
def test_the_papers_evaluations_don_t_punish_mixed_language(recipe):
    config, _ = compose([f"cascade=nemotron_cascade/{recipe}"])
    scores = {getattr(suite.reward, "mixed_language_score", None) for suite in config.evaluation.suites.values()}
    assert scores == {None}
    asked = [task.reward for stage in config.stages.values() for task in stage.judged().values()]
    assert {reward.mixed_language_score for reward in asked if reward.kind == "math"} == {-1.0}
    assert {reward.mixed_language_score for reward in asked if reward.kind == "code"} == {0.0}


def test_tasks_of_a_stage_have_settings_of_their_own():
    override = "+stages.math_rl.tasks.more={path:x,domain:code,reward:{kind:code,max_tests:7}}"
    config, _ = compose(["cascade=nano", override])
    assert list(config.stages["math_rl"].tasks) == ["math", "at_once", "more"]
    assert config.stages["math_rl"].tasks["more"].reward.max_tests == 7
    wrong = refused(override.replace("max_tests", "max_test"))
    assert any("did you mean stages.math_rl.tasks.more.reward.max_tests?" in line for line in wrong)


def test_limits_that_do_not_fit_into_the_deadline_are_refused_before_anything_starts():
    config, _ = compose(["cascade=nano", "evaluation.suites.code.reward.total_s=61"])
    assert any("evaluation.suites.code.reward of code: 213 s" in str(v) for v in violations(config))


def test_explain_knows_the_settings_of_the_verifier_that_stands_there():
    config, provenance = compose(["cascade=nano", f"{MATH}.mixed_language_score=-1"])
    [told] = explain(f"{MATH}.mixed_language_score", config, provenance["origins"])
    assert "section 4.5" in told.meaning
    assert (told.type, told.default, told.value) == ("float or null", "null", "-1.0")
    [block] = explain(MATH, config, provenance["origins"])
    assert [name for name, _ in block.fields] == ["kind", "mixed_language_score", "language"]
    # Without a run nothing tells the verifier: every one that has the setting answers.
    assert len(explain("stages.x.tasks.x.reward.mixed_language_score")) == 2
    with pytest.raises(CascadeError, match=r"did you mean stages\.x\.tasks\.x\.reward\.max_tests\?"):
        explain("stages.x.tasks.x.reward.max_test")


def test_golden_cases_keep_the_limits_alone():
    given = {"total_s": 9.0, "memory_mib": 64, "mixed_language_score": 0.0}
    assert golden_settings("code", given) == {"total_s": 9.0, "memory_mib": 64}
    assert golden_settings("instruction", {"partial": True}) == {}
