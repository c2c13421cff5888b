"""Values that change inside a stage, and a temperature that holds the entropy."""

import json
import math
from dataclasses import replace

import pytest

from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.rollout_rules import EntropyTargetConfig, ScheduleEntry
from nemo_cascade.rl.schedule import Schedule


@pytest.fixture(scope="module")
def stage():
    return compose(["cascade=nano"])[0].stages["math_rl"]


def test_values_hold_from_their_step_on(stage):
    entries = [
        ScheduleEntry(from_step=4, num_generations=16),
        ScheduleEntry(from_step=8, temperature=0.8, max_tokens=32),
    ]
    schedule = Schedule(replace(stage, schedule=entries))
    told = [schedule.metrics(schedule.at(step)) for step in (0, 4, 8, 15)]
    groups = [stage.num_generations, 16, 16, 16]
    assert [line["num_generations"] for line in told] == groups
    assert [line["temperature"] for line in told] == [1.0, 1.0, 0.8, 0.8]
    assert [line["max_tokens"] for line in told] == [48, 48, 32, 32]
    assert Schedule(stage).metrics(stage) == {}
    assert Schedule(stage).at(3) == stage


def test_the_temperature_finds_where_the_entropy_is_on_target_and_goes_on_after_a_resume(stage):
    steered = replace(stage, entropy_target=EntropyTargetConfig(nats=0.3, gain=0.5))
    schedule = Schedule(steered)
    for step in range(60):
        temperature = schedule.at(step).sampling.temperature
        schedule.see(step, 0.45 * temperature**2)  # hotter samples are more uncertain
    assert temperature == pytest.approx(math.sqrt(0.3 / 0.45), abs=0.01)
    again = Schedule(steered, json.loads(json.dumps(schedule.state())))
    assert again.at(60) == schedule.at(60)
    again.see(60, None)
    assert again.at(61) == schedule.at(61)
    for _ in range(99):
        again.see(61, 9.0)
    assert again.at(62).sampling.temperature == 0.6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule=[{from_step:9},{from_step:4}]"], "never come, or not in this order"),
        (["schedule=[{from_step:99}]"], "never come"),
        (["schedule=[{from_step:3,max_tokens:500}]"], "leaves no room for a prompt"),
        (["schedule=[{from_step:3,num_generations:3}]", "updates_per_batch=64"], "can't be dealt evenly"),
        (["schedule=[{from_step:3,temperature:0.7}]", "entropy_target.nats=0.3"], "given and steered"),
        (["entropy_target={nats:0.3,lowest:1.0,highest:0.9}"], "needs room"),
    ],
)
def test_what_never_comes_or_does_not_fit_is_refused(overrides, words):
    config, _ = compose(["cascade=nano", *(f"stages.math_rl.{override}" for override in overrides)])
    assert any(words in str(violation) for violation in violations(config))
