"""A round with a scripted engine and judges: what it keeps, and that a kill at any batch changes nothing."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.preference import PairRuleConfig, SampledPairsConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.errors import DataError
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.round import Round
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

K = 3


class Engine:
    """Answers with two tokens that follow from the seed."""

    asked = 0

    def generate(self, questions, sampling, seed):
        for question in questions:
            self.asked += 1
            rng = np.random.default_rng([seed, int(question.token_ids[0])])
            logprobs = np.zeros(2, np.float32)
            yield [
                first_turn(
                    question.task_id, s, question.token_ids, rng.integers(0, 99, 2), logprobs, FinishReason.STOP, 1
                )
                for s in question.samples
            ]


class Judges:
    """A response is as good as its first token; of task `t3` all are equally good. The reward model likes the last."""

    def __init__(self):
        self.samples, self.asked = [], 0

    def submit(self, samples):
        self.samples += samples

    def drain(self):
        samples, self.samples = self.samples, []
        return [
            (answer.place, Verdict(0.5 if task.task_id == "t3" else float(answer.response_ids[0])))
            for task, answer in samples
        ]

    def preferences(self, groups):
        self.asked += len(groups)
        return {answer.place: Verdict(float(answer.sample)) for group in groups for _, answer in group}


@pytest.fixture(scope="module")
def config():
    return compose(["cascade=nano"])[0]


def make_round(folder, config, **changes):
    tasks = config.stages["math_rl"].tasks
    rules = {"tasks": tasks, "num_generations": K, "prompts_per_batch": 2, "prompts": 5, **changes}
    messages = [{"role": "user", "content": "q"}]
    prompts = [Task(f"t{i}", "math", "math", np.array([i, 7], np.int32), {"messages": messages}) for i in range(6)]
    return Round(folder, "rpo_1", 3, SampledPairsConfig(**rules), PromptSet(prompts))


def run(this, config):
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)), end_ids=())
    engine, judges = Engine(), Judges()
    by = Answerers(engine, judges, tokenizer, config, None)
    for batch in this.missing():
        this.sample(batch, by, PhaseTimer(), lambda ended: None)
    return engine, judges


def lines(this):
    return [
        json.loads(line)
        for batch in range(this.batches)
        for line in gzip.open(this.file(batch), "rt").read().splitlines()
    ]


def test_every_prompt_is_asked_once_and_the_pairs_hold_the_sampled_tokens_and_rewards(tmp_path, config):
    this = make_round(tmp_path, config)
    run(this, config)
    told = lines(this)
    assert len({line["prompt_id"] for line in told}) == 5
    store, found = this.pairs()
    pairs = [line for line in told if line["outcome"] == "pair"]
    assert (found["prompts"], found["pairs"], found["tied"]) == (5, len(pairs), 5 - len(pairs))
    for item, line in enumerate(pairs):
        scores = [response["score"] for response in line["responses"]]
        for document, side, best in zip(store.documents(item), ("chosen", "rejected"), (max, min), strict=True):
            response = line["responses"][line[side]]
            assert response["score"] == best(scores)
            assert document.input_ids.tolist() == response["token_ids"]
            assert document.loss_mask.tolist() == [0, 1, 1, 0]
            assert set(document.extras["rewards"][:-1].tolist()) == {best(scores)}


def test_a_round_that_was_killed_at_any_batch_comes_to_the_same_pairs(tmp_path, config):
    whole = make_round(tmp_path / "whole", config)
    run(whole, config)
    expected, _ = whole.pairs()
    for lost in range(whole.batches):
        again = make_round(tmp_path / f"lost{lost}", config)
        run(again, config)
        for batch in range(lost, again.batches):
            again.file(batch).unlink()
        assert again.missing() == list(range(lost, again.batches))
        engine, _ = run(again, config)
        assert engine.asked == 5 - 2 * lost
        store, _ = again.pairs()
        assert store.folder.name == expected.folder.name
        assert store.tokens.tobytes() == expected.tokens.tobytes()


def test_another_stage_draws_other_prompts_in_another_order(tmp_path, config):
    first = make_round(tmp_path, config)
    other = replace(first, name="rpo_2")
    order = [[task.task_id for b in range(3) for task in this.tasks(b)] for this in (first, other)]
    assert order[0] != order[1]


def test_the_reward_model_decides_where_the_verifier_doesnt(tmp_path, config):
    this = make_round(tmp_path, config, reward_model="somewhere", prompts=6)
    _, judges = run(this, config)
    assert judges.asked == 6
    (tied,) = [line for line in lines(this) if line["prompt_id"] == "t3"]
    assert (tied["outcome"], tied["chosen"], tied["rejected"], tied["rewards"]) == ("pair", K - 1, 0, [K - 1.0, 0.0])


def test_a_round_without_a_pair_says_what_became_of_its_prompts(tmp_path, config):
    this = make_round(tmp_path, config, pairs=PairRuleConfig(least_chosen=1000.0))
    run(this, config)
    with pytest.raises(DataError, match="no prompt of the round makes a pair") as refused:
        this.pairs()
    assert "low_quality" in str(refused.value)
