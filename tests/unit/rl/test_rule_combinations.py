"""Every combination of an RL stage's rules, in turns and ahead, by batches and without: it runs, or says why not."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig, TaskEnvironmentConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.stages.rollout_rules import DynamicSamplingConfig, PromptFilterConfig, ScheduleEntry
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from tests.support.simulated_engines import SimulatedEngines
from tests.support.simulated_stage import collector_of, nano, play, stage_of, tasks_of

SCRIPTED = Path(__file__).parents[2] / "support" / "scripted_environments.py"
PROMPTS, SAMPLES = 3, 2
# Reasons that are no gaps: what they refuse can't be, whoever builds it.
IN_TIME = "which groups are whole first is a matter of time, and batches are the same bits each time"
NO_STEP = "turns in step wait for the slowest of their batch, and continuous generation has none"
CARRIED = "a rollout that is carried on is older than the weights that it trains"

RULES = list(product((False, True), (False, True), ("keep", "mask", "zero")))
MODES = [*product(("batches", "continuous"), (1.0, 1.4), ("carry", "abort"), ("single", "lock_step", "streaming"))]


@pytest.fixture(scope="module")
def hosts():
    with EnvironmentHosts(EnvironmentProcessesConfig(processes=1), None, SandboxConfig()) as made:
        yield made


def reasons(mode, oversampling, leftovers, turns, staleness):
    """Return why a combination can't be."""
    found = set()
    if mode == "batches":
        found |= {IN_TIME} if oversampling > 1 else set()
        found |= {"a batch has no leftovers"} if leftovers == "abort" else set()
        return found
    found |= {CARRIED} if not staleness and leftovers == "carry" else set()
    return found | ({NO_STEP} if turns == "lock_step" else set())


def play_all(staleness, hosts, each):
    """Check every combination, and play each `each`th of those that are accepted; return how many are."""
    accepted = 0
    for (mode, oversampling, leftovers, turns), (dynamic, filtered, overlong) in product(MODES, RULES):
        environment = TaskEnvironmentConfig() if turns == "single" else TaskEnvironmentConfig(kind=f"{SCRIPTED}:Parity")
        stage = stage_of(staleness + 3, PROMPTS, SAMPLES, staleness, mode, oversampling, leftovers)
        stage = replace(
            stage,
            dynamic_sampling=DynamicSamplingConfig(enabled=dynamic),
            prompt_filter=PromptFilterConfig(enabled=filtered, readmit_hard=1.0, readmit_easy=1.0),
            overlong=overlong,
            tasks={"math": replace(stage.tasks["math"], environment=environment)},
        )
        how = "streaming" if turns == "streaming" else "lock_step"
        config = replace(nano(), environments=replace(nano().environments, turns=how))
        refused = {problem.what for problem in stage.problems(config, "math_rl")}
        assert refused == reasons(mode, oversampling, leftovers, turns, staleness)
        accepted += not refused
        if refused or accepted % each:
            continue
        tasks = tasks_of(20, None if turns == "single" else environment.use)
        engines = SimulatedEngines(2, 5, median=6, longest=12)
        played = play(stage, collector_of(stage, engines, tasks, hosts=hosts, turns=how), 10.0)
        assert len(played.drawn) == stage.steps
        assert all(len(one.batch.groups) == PROMPTS for one in played.drawn)
        several = {answer.num_turns for one in played.drawn for g in one.batch.groups for answer in g.answers}
        assert (max(several) == 1) == (turns == "single")
    return accepted


@pytest.mark.parametrize("staleness", [0, 1, 4])
@pytest.mark.parametrize("each", [67, pytest.param(1, marks=pytest.mark.long)])
def test_each_combination_of_rules_runs_or_is_refused_for_a_reason(staleness, each, hosts):
    assert play_all(staleness, hosts, each) == len(RULES) * (3 + (4 if staleness else 2) * 2)


def test_what_promises_to_be_repeatable_or_changes_under_way_is_refused():
    stage = stage_of(8, PROMPTS, SAMPLES, 1, "continuous")
    config = replace(nano(), cluster=replace(nano().cluster, deterministic=True))
    stage = replace(
        stage,
        schedule=[ScheduleEntry(from_step=2, temperature=0.8)],
        curriculum=replace(stage.curriculum, profile_on_plateau=3),
    )
    told = [str(problem) for problem in stage.problems(config, "math_rl")]
    for words in ("cluster.deterministic=true", "math_rl.schedule; mend", "profile_on_plateau=3"):
        assert sum(words in line for line in told) == 1, words
    in_turns = replace(stage, max_staleness=0, generation=replace(stage.generation, leftovers="abort"))
    assert not any("math_rl.schedule" in str(problem) for problem in in_turns.problems(config, "math_rl"))
