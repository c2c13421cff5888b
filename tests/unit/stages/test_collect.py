"""A step's rollouts with a scripted engine and judges; the real ones run in tests/distributed and tests/e2e."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.rollout_rules import DynamicSamplingConfig, PromptFilterConfig, ShapingConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.errors import RewardError, RolloutError
from nemo_cascade.stages.collect import Collector
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Prompt, Rollout, Verdict

G = 4


class Engine:
    def generate(self, prompts, size, sampling, seed):
        ids = np.array([1, 2], np.int32)
        for prompt in prompts:
            yield [
                Rollout(prompt.prompt_id, sample, ids, ids, np.zeros(2, np.float32), FinishReason.STOP, 1)
                for sample in range(size)
            ]


class Scripted:
    """`verdicts[prompt][sample]` of the verifier; a reward model that likes later samples better."""

    def __init__(self, verdicts, broken=()):
        self.verdicts, self.broken, self.keys, self.asked = verdicts, broken, [], []

    def submit(self, submissions):
        self.keys += [key for key, _, _ in submissions]

    def drain(self):
        keys, self.keys = self.keys, []
        return [(k, self.verdicts[k.rpartition("#")[0]][int(k.rpartition("#")[2])]) for k in keys]

    def preferences(self, groups):
        self.asked += [prompt.prompt_id for prompt, _ in groups]
        return [
            [Verdict(None, "crash") if (p.prompt_id, r.sample) in self.broken else Verdict(float(r.sample)) for r in rs]
            for p, rs in groups
        ]


def collector(judges, records=({}, {}), **settings):
    config, _ = compose(["cascade=nano"])
    stage = replace(config.stages["math_rl"], prompts_per_step=2, num_generations=G, **settings)
    prompts = PromptSet(
        [Prompt(name, "math", "math", np.array([i], np.int32), records[i]) for i, name in enumerate("ab")]
    )
    config = replace(config, reward=replace(config.reward, max_error_fraction=0.2))
    stream = PromptStream(prompts, config.seed, stage.prompt_filter, 2)
    return Collector(stream, Engine(), judges, stage, config, SimpleNamespace())


def scores(*values):
    return [Verdict(value) for value in values]


def test_the_reward_model_is_asked_about_groups_with_a_verified_response_only():
    judges = Scripted({"a": scores(1, 0, 1, 1), "b": scores(0, 0, 0, 0)}, broken={("a", 3)})
    batch = collector(judges, shaping=ShapingConfig(combine="preference")).collect(0, PhaseTimer())
    assert judges.asked == ["a"]
    row = [p.prompt_id for p in batch.prompts].index("a")
    z = (np.array([0.0, 1.0, 2.0]) - 1.0) / np.std([0.0, 1.0, 2.0])
    expected = [1 + 1 / (1 + np.exp(-z[0])), 0.0, 1 + 1 / (1 + np.exp(-z[2]))]
    assert batch.rewards[row, :3] == pytest.approx(expected)
    # The response that the reward model failed on is an error of the step, not a score.
    assert not batch.valid[row, 3]
    assert batch.metrics()["verdict_errors_by_kind"] == {"crash": 1}
    assert not batch.rewards[1 - row].any()


def test_too_many_failures_of_the_reward_model_stop_the_run():
    judges = Scripted({"a": scores(1, 1, 1, 1), "b": scores(1, 0, 0, 0)}, broken={("a", 0), ("a", 1)})
    with pytest.raises(RewardError, match=r"2 of 8 \(crash"):
        collector(judges, shaping=ShapingConfig(combine="preference")).collect(0, PhaseTimer())


def test_dynamic_sampling_goes_by_the_reward_that_is_trained_on():
    settings = {"dynamic_sampling": DynamicSamplingConfig(enabled=True, max_rounds=1)}
    verdicts = {"a": scores(1, 1, 1, 1), "b": scores(0, 0, 0, 0)}
    # All verified, but the reward model likes some better: 1 + sigmoid(z) differs, so the group trains.
    judges = Scripted(verdicts)
    batch = collector(judges, shaping=ShapingConfig(combine="preference"), **settings).collect(0, PhaseTimer())
    assert judges.asked == [p.prompt_id for p in batch.prompts] == ["a"]
    assert batch.dropped_groups == 1
    assert np.unique(batch.rewards).size == G
    # The verifier alone has nothing to tell apart.
    with pytest.raises(RolloutError, match="no group of the step has any variance"):
        collector(Scripted(verdicts), **settings).collect(0, PhaseTimer())


def test_a_prompt_that_all_or_no_valid_rollout_solved_leaves_the_next_epoch():
    judges = Scripted(
        {"a": [Verdict(1.0), Verdict(1.0), Verdict(1.0), Verdict(None, "crash")], "b": scores(0, 1, 0, 0)}
    )
    rules = PromptFilterConfig(enabled=True, readmit_easy=0.0)
    it = collector(judges, prompt_filter=rules)
    it.collect(0, PhaseTimer())
    it.stream.least = 1
    assert [p.prompt_id for p in it.stream.take(1)] == ["b"]
    assert it.stream.metrics()["prompt_filter"] == {"prompts": 1, "easy": 1, "hard": 0, "readmitted": 0}


def test_a_batch_of_both_modes_is_told_apart_in_its_metrics():
    verdicts = {"a": scores(1, 1, 1, 1), "b": scores(0, 1, 0, 0)}
    told = collector(Scripted(verdicts), ({"mode": "think"}, {"mode": "no_think"})).collect(0, PhaseTimer()).metrics()
    assert told["reward_by_mode"] == {"think": 1.0, "no_think": 0.25}
    assert told["response_length_by_mode"] == {"think": 2.0, "no_think": 2.0}
    assert "reward_by_mode" not in collector(Scripted(verdicts)).collect(0, PhaseTimer()).metrics()
