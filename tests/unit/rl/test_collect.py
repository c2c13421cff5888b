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
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.collect import Collector
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

G = 4


class Engine:
    def generate(self, questions, sampling, seed):
        ids, logprobs = np.array([1, 2], np.int32), np.zeros(2, np.float32)
        for q in questions:
            yield [first_turn(q.task_id, s, q.token_ids, ids, logprobs, FinishReason.STOP, 1) for s in q.samples]


class Scripted:
    """`verdicts[task][sample]` of the verifier; a reward model that likes later samples better."""

    def __init__(self, verdicts, broken=()):
        self.verdicts, self.broken, self.places, self.asked = verdicts, broken, [], []

    def submit(self, samples):
        self.places += [answer.place for _, answer in samples]

    def drain(self):
        places, self.places = self.places, []
        return [((name, sample), self.verdicts[name][sample]) for name, sample in places]

    def preferences(self, groups):
        self.asked += [group[0][0].task_id for group in groups]
        places = [answer.place for group in groups for _, answer in group]
        return {p: Verdict(None, "crash") if p in self.broken else Verdict(float(p[1])) for p in places}


def collector(judges, records=({}, {}), **settings):
    config, _ = compose(["cascade=nano"])
    stage = replace(config.stages["math_rl"], prompts_per_step=2, num_generations=G, **settings)
    prompts = PromptSet(
        [Task(name, "math", "math", np.array([i], np.int32), records[i]) for i, name in enumerate("ab")]
    )
    config = replace(config, reward=replace(config.reward, max_error_fraction=0.2))
    stream = PromptStream(prompts, config.seed, stage.prompt_filter, 2)
    return Collector(stream, Answerers(Engine(), judges, SimpleNamespace(), config, None), stage)


def scores(*values):
    return [Verdict(value) for value in values]


def test_the_reward_model_is_asked_about_groups_with_a_verified_response_only():
    judges = Scripted({"a": scores(1, 0, 1, 1), "b": scores(0, 0, 0, 0)}, broken={("a", 3)})
    batch = collector(judges, shaping=ShapingConfig(combine="preference")).collect(0, PhaseTimer())
    assert judges.asked == ["a"]
    row = [g.task.task_id for g in batch.groups].index("a")
    z = (np.array([0.0, 1.0, 2.0]) - 1.0) / np.std([0.0, 1.0, 2.0])
    expected = [1 + 1 / (1 + np.exp(-z[0])), 0.0, 1 + 1 / (1 + np.exp(-z[2]))]
    assert batch.marks.rewards[row, :3] == pytest.approx(expected)
    # The response that the reward model failed on is an error of the step, not a score.
    assert not batch.marks.valid[row, 3]
    assert batch.metrics()["verdict_errors_by_kind"] == {"crash": 1}
    assert not batch.marks.rewards[1 - row].any()


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
    assert judges.asked == [g.task.task_id for g in batch.groups] == ["a"]
    assert batch.dropped_groups == 1
    assert np.unique(batch.marks.rewards).size == G
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
    assert [p.task_id for p in it.stream.take(1)] == ["b"]
    assert it.stream.metrics()["prompt_filter"] == {"prompts": 1, "easy": 1, "hard": 0, "readmitted": 0}


def test_a_batch_of_both_modes_is_told_apart_in_its_metrics():
    verdicts = {"a": scores(1, 1, 1, 1), "b": scores(0, 1, 0, 0)}
    told = collector(Scripted(verdicts), ({"mode": "think"}, {"mode": "no_think"})).collect(0, PhaseTimer()).metrics()
    assert told["reward_by_mode"] == {"think": 1.0, "no_think": 0.25}
    assert told["response_length_by_mode"] == {"think": 2.0, "no_think": 2.0}
    assert "reward_by_mode" not in collector(Scripted(verdicts)).collect(0, PhaseTimer()).metrics()
