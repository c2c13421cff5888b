"""A prompt set's or a suite's `reward`: held to its verifier's settings before anything starts, for itself alone."""

import inspect
from dataclasses import asdict, fields

import pytest

from nemo_cascade.config.reading import keys
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.explain import explain
from nemo_cascade.config.reading.strict import to_run_config
from nemo_cascade.config.validate import violations
from nemo_cascade.config.verifiers import SETTINGS, golden_settings, settings_of
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.rewards.registry import VERIFIERS, build_verifier, verifier_class

MATH = "stages.math_rl.prompts.reward"
_MINIMAL = {"mix": {"terms": [{"verifier": "math"}]}}


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
    assert set(taken) == {field.name for field in fields(block)}
    settings = settings_of(verifier, _MINIMAL.get(verifier, {}))
    for name, default in taken.items():
        # An empty sequence and an empty list are one to a configuration.
        same = getattr(settings, name) == default or (not default and not getattr(settings, name))
        assert same or default is inspect.Parameter.empty, name
    made_of_all = build_verifier(VERIFIERS[verifier], asdict(settings))
    assert getattr(made_of_all, "needs_s", 0.0) == settings.needs_s
    assert block.limits <= set(taken)


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
        ("evaluation.suites.instruction.reward.mode=lose", "did you mean loose?"),
        ("stages.rlhf.prompts.reward.weight=1", "unknown key"),  # preference has none
        ("evaluation.suites.swe.reward.otherwise=judge", "judge={url, model} with otherwise=judge"),
        ("evaluation.suites.swe.reward={otherwise:judge,judge:{url:x}}", "reward.judge.model is missing"),
        ("evaluation.suites.swe.reward.judge.urll=x", "did you mean evaluation.suites.swe.reward.judge.url?"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(override, words):
    assert any(words in line for line in refused(override)), refused(override)


def test_a_composition_is_checked_down_to_its_parts():
    place = "++evaluation.suites.math={verifier:mix,reward:%s}"
    assert any("reward.terms is missing" in line for line in refused(place % "{}"))
    assert any("did you mean math?" in line for line in refused(place % "{terms:[{verifier:maths}]}"))
    assert any("verifier=mix" in line for line in refused(place % "{terms:[{verifier:mix}]}"))
    wrong = refused(place % "{terms:[{verifier:math,options:{langage:ru}}]}")
    assert any("did you mean evaluation.suites.math.reward.terms.0.options.language?" in line for line in wrong)
    assert any("clip=[lowest, highest]" in line for line in refused(place % "{terms:[{verifier:math}],clip:[1,0]}"))
    deadline = "++reward.deadlines.mix=60"
    config, _ = compose(["cascade=nano", deadline, place % "{terms:[{verifier:code,options:{total_s:9}}]}"])
    assert config.evaluation.suites["math"].reward["terms"][0]["options"]["max_tests"] == 50
    assert any("reward.deadlines.mix=60" in str(v) for v in violations(config, list(VERIFIERS))) is False
    config, _ = compose(["cascade=nano", deadline, place % "{terms:[{verifier:code,options:{total_s:12}}]}"])
    assert any("under reward.deadlines.mix=60" in str(v) for v in violations(config, list(VERIFIERS)))


def test_a_suite_does_not_judge_by_the_settings_of_training():
    config, provenance = compose(["cascade=nano", f"{MATH}.mixed_language_score=-1"])
    assert config.stages["math_rl"].prompts.reward == {"mixed_language_score": -1.0, "language": "en"}
    assert config.evaluation.suites["math"].reward == {"mixed_language_score": None, "language": "en"}
    assert provenance["origins"][f"{MATH}.mixed_language_score"].startswith("command line")
    assert provenance["origins"][f"{MATH}.language"] == "schema default"
    # What is kept with a run is read back as it was.
    assert to_run_config(asdict(config)) == config


@pytest.mark.parametrize("recipe", ["8b", "8b_thinking", "14b_thinking"])
def test_the_papers_evaluations_don_t_punish_mixed_language(recipe):
    config, _ = compose([f"cascade=nemotron_cascade_{recipe}"])
    scores = {suite.reward.get("mixed_language_score") for suite in config.evaluation.suites.values()}
    assert scores == {None}
    asked = {name: stage.prompts for name, stage in config.stages.items() if stage.kind == "grpo"}
    assert {p.reward["mixed_language_score"] for p in asked.values() if p.verifier == "math"} == {-1.0}
    assert {p.reward["mixed_language_score"] for p in asked.values() if p.verifier == "code"} == {0.0}


def test_mixed_prompt_sets_have_settings_of_their_own():
    override = "stages.math_rl.mixed_with=[{path:x,domain:code,verifier:code,reward:{max_tests:7}}]"
    config, _ = compose(["cascade=nano", override])
    assert config.stages["math_rl"].mixed_with[0].reward["max_tests"] == 7
    wrong = refused(override.replace("max_tests", "max_test"))
    assert any("did you mean stages.math_rl.mixed_with.0.reward.max_tests?" in line for line in wrong)


def test_limits_that_do_not_fit_into_the_deadline_are_refused_before_anything_starts():
    config, _ = compose(["cascade=nano", "evaluation.suites.code.reward.total_s=61"])
    assert any("evaluation.suites.code.reward of code: 213 s" in str(v) for v in violations(config, list(VERIFIERS)))


def test_explain_knows_the_settings_of_the_verifier_that_stands_there():
    config, provenance = compose(["cascade=nano", f"{MATH}.mixed_language_score=-1"])
    [told] = explain(f"{MATH}.mixed_language_score", config, provenance["origins"])
    assert "section 4.5" in told.meaning
    assert (told.type, told.default, told.value) == ("float or null", "null", "-1.0")
    [block] = explain(MATH, config, provenance["origins"])
    assert [name for name, _ in block.fields] == ["mixed_language_score", "language"]
    # Without a run nothing tells the verifier: every one that has the setting answers.
    assert len(explain("stages.x.prompts.reward.mixed_language_score")) == 2
    with pytest.raises(CascadeError, match=r"did you mean stages\.x\.prompts\.reward\.max_tests\?"):
        explain("stages.x.prompts.reward.max_test")


def test_golden_cases_keep_the_limits_alone():
    given = {"total_s": 9.0, "memory_mib": 64, "mixed_language_score": 0.0}
    assert golden_settings("code", given) == {"total_s": 9.0, "memory_mib": 64}
    assert golden_settings("instruction", {"partial": True}) == {}
