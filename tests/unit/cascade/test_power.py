"""A plan says which of its suites are too small for what they are to hold."""

import re
from dataclasses import replace

import pytest

from nemo_cascade.cascade.power import expected_detectable, held_domains, too_small
from nemo_cascade.config.schema import EvaluationConfig, SuiteConfig


def sized(config, prompts, samples=1, **gate):
    suite = SuiteConfig(path="x", reward={"kind": "math"}, num_prompts=prompts, samples_per_prompt=samples)
    suites = dict.fromkeys(config.evaluation.suites, suite)
    return replace(config, evaluation=EvaluationConfig(suites=suites), gate=replace(config.gate, **gate))


def test_a_suite_too_small_to_find_an_unacceptable_fall_is_named_with_a_size_that_would_do(config):
    lines = list(too_small(sized(config, 100)))
    assert {re.search(r"suites\.(\w+)", line)[1] for line in lines} == set(config.evaluation.suites)
    enough = max(int(re.search(r"num_prompts=(\d+)", line)[1]) for line in lines)
    assert list(too_small(sized(config, enough))) == []
    assert list(too_small(sized(config, enough - 30))) != []


def test_samples_help_a_larger_fall_is_easier_and_where_nothing_is_stopped_nothing_is_said(config):
    assert list(too_small(sized(config, 150, samples=8))) == []
    assert list(too_small(sized(config, 100, unacceptable_fall=0.5))) == []
    assert list(too_small(sized(config, 100, on_regression="promote"))) == []
    suite = SuiteConfig(path="x", reward={"kind": "math"}, num_prompts=100)
    assert expected_detectable(suite, 0.001, 0.02) < expected_detectable(suite, 0.001, 0.1)


@pytest.mark.parametrize("stage", ["sft1", "rm"])
def test_what_is_held_are_suites_that_are_not_to_improve_and_a_reward_model_holds_none(with_reward_model, stage):
    assert held_domains(with_reward_model, stage) == ({"sft1": ["code"], "rm": []}[stage])
