"""The reward model in service: right scores, the same bits in any order, clear errors in time."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.judges import Judges
from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.scorer import ScorerGroup
from nemo_cascade.config.model import ModelConfig, PrecisionConfig
from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.config.schema import ClusterConfig, RewardConfig, ScorerConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.scored import encode_scored
from nemo_cascade.errors import ActorDiedError, DeadlineError, ModelError, RewardError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.types import FinishReason, Task, first_turn
from tests.support.tiny_policy import write_tiny_folder

pytestmark = pytest.mark.distributed

REPLIES = ("yes", "no, no, no", "<think>\nlong thoughts\n</think>\nyes", "perhaps a little")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer") / "rm"
    config = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "id2label": {"0": "reward"},
        "num_hidden_layers": 2,
        "vocab_size": 512,
        "pad_token_id": 0,
    }
    folder = write_tiny_folder(path, **config)
    train_nano_tokenizer(["user assistant yes no perhaps a little long thoughts"] * 8, path)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer") / "lm"
    folder = write_tiny_folder(path, vocab_size=512)
    train_nano_tokenizer(["user assistant yes"] * 8, path)
    return folder


@pytest.fixture(scope="module")
def cluster():
    with Cluster(ClusterConfig(device="cpu")) as running:
        yield running


def make(cluster, **config):
    return ScorerGroup(
        cluster, ScorerConfig(**config), RolloutConfig(), ModelConfig(name="tiny"), PrecisionConfig(dtype="fp32")
    )


@pytest.fixture(scope="module")
def scorer(cluster, reward_model):
    group = make(cluster, num_replicas=2)
    group.load(reward_model, reward_model)
    yield group
    group.close()


@pytest.fixture(scope="module")
def tokenizer(reward_model):
    return load_tokenizer(reward_model)


def groups_of(tokenizer, count=3, verifier="preference"):
    groups = []
    for i in range(count):
        messages = [{"role": "user", "content": f"question {i}"}]
        prompt = Task(f"set/{i}", "chat", verifier, np.arange(4, dtype=np.int32), {"messages": messages})
        rollouts = []
        for sample, reply in enumerate(REPLIES):
            ids = np.append(tokenizer.encode(reply), tokenizer.end_id).astype(np.int32)
            rollouts.append(
                first_turn(prompt.task_id, sample, prompt.token_ids, ids, np.zeros(len(ids)), FinishReason.STOP, 0)
            )
        groups.append((prompt, rollouts))
    return groups


class NoPools:
    by_group = False

    def drain(self):
        return []


def score(scorer, groups):
    for prompt, rollouts in groups:
        scorer.submit([(prompt, rollout) for rollout in rollouts])
    verdicts = dict(scorer.drain())
    return [[verdicts[rollout.place] for rollout in rollouts] for _, rollouts in groups]


def test_scores_are_those_of_transformers_on_the_question_and_the_answer_without_its_thinking(
    scorer, tokenizer, reward_model
):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)
    groups = groups_of(tokenizer)
    for (prompt, _), verdicts in zip(groups, score(scorer, groups), strict=True):
        assert [verdict.error for verdict in verdicts] == [None] * 4
        texts = encode_scored(tokenizer, [(prompt.record["messages"], reply) for reply in REPLIES])
        with torch.no_grad():
            want = [model(torch.from_numpy(ids.astype(np.int64))[None]).logits.item() for ids in texts]
        np.testing.assert_allclose([verdict.score for verdict in verdicts], want, atol=1e-5)
        assert verdicts[0].score == pytest.approx(verdicts[2].score, abs=1e-5)  # they differ only in their thinking
        assert len(set(want)) == 3


def test_the_same_bits_whatever_the_order_and_the_company(scorer, tokenizer):
    groups = groups_of(tokenizer, 6)
    expected = {
        (prompt.task_id, i): verdict.score
        for (prompt, _), verdicts in zip(groups, score(scorer, groups), strict=True)
        for i, verdict in enumerate(verdicts)
    }
    mixed = [(prompt, rollout) for prompt, rollouts in groups for rollout in rollouts]
    np.random.default_rng(0).shuffle(mixed)
    judges = Judges(NoPools(), scorer, group_size=4)
    for sample in mixed:
        judges.submit([sample])
    verdicts = judges.drain()
    assert {key: verdict.score for key, verdict in verdicts} == expected
    assert len(verdicts) == len(expected)
    (alone,) = score(scorer, [groups[3]])
    assert [v.score for v in alone] == [expected["set/3", i] for i in range(4)]
    assert scorer.drain() == []


def test_a_text_longer_than_the_model_is_an_error_and_the_others_are_scored(scorer, tokenizer):
    ((prompt, rollouts),) = groups_of(tokenizer, 1)
    ids = np.full(600, 40, np.int32)
    rollouts[1] = first_turn(prompt.task_id, 1, prompt.token_ids, ids, np.zeros(600), FinishReason.LENGTH, 0)
    (verdicts,) = score(scorer, [(prompt, rollouts)])
    assert [verdict.error for verdict in verdicts] == [None, "too_long", None, None]
    assert "512" in verdicts[1].detail


def test_judges_send_each_rollout_to_who_is_named_and_can_ask_for_a_second_opinion(
    cluster, scorer, tokenizer, reward_model
):
    pools = RewardGroup(cluster, RewardConfig(workers=1), reward_model)
    try:
        judges = Judges(pools, scorer, group_size=4)
        judges.self_test(["preference", "instruction"])
        (preferred,) = groups_of(tokenizer, 1)
        (followed,) = groups_of(tokenizer, 1, verifier="instruction")
        record = {**followed[0].record, "instruction": {"kind": "exact", "expected": "yes"}}
        other = Task("other/0", "chat", "instruction", followed[0].token_ids, record)
        followed = (other, [replace(rollout, task_id="other/0") for rollout in followed[1]])
        for prompt, rollouts in (preferred, followed):
            judges.submit([(prompt, rollout) for rollout in rollouts])
        verdicts = dict(judges.drain())
        assert [verdicts["other/0", i].score for i in range(4)] == [1.0, 0.0, 1.0, 0.0]
        second = judges.preferences([[(other, rollout) for rollout in followed[1]]])
        assert [second["other/0", i].score for i in range(4)] == [verdicts["set/0", i].score for i in range(4)]
        with pytest.raises(RewardError, match="no reward model to ask"):
            Judges(pools, None, 4).submit([(preferred[0], preferred[1][0])])
    finally:
        pools.close()


@pytest.mark.long  # two ranks more to start
def test_a_language_model_is_refused_and_a_tensor_parallel_replica_scores_alike(
    cluster, scorer, tokenizer, reward_model, language_model
):
    both = make(cluster, tensor_parallel_size=2)
    try:
        with pytest.raises(ModelError, match="no score head"):
            both.load(language_model, language_model)
        both.load(reward_model, reward_model)
        groups = groups_of(tokenizer, 2)
        for one, two in zip(score(scorer, groups), score(both, groups), strict=True):
            np.testing.assert_allclose([v.score for v in one], [v.score for v in two], atol=1e-5)
    finally:
        both.close()


@pytest.mark.parametrize(("how", "error"), [(signal.SIGSTOP, DeadlineError), (signal.SIGKILL, ActorDiedError)])
def test_a_replica_that_hangs_or_dies_is_an_error_within_its_deadline(cluster, tokenizer, reward_model, how, error):
    group = make(cluster, deadline_s=4)
    group.load(reward_model, reward_model)
    (pid,) = group.pids
    os.kill(pid, how)
    began = time.monotonic()
    try:
        with pytest.raises(error, match="scorer-0"):
            score(group, groups_of(tokenizer, 4))
        assert time.monotonic() - began < 4 + 4  # and a second for the stack of the silent one
    finally:
        if how is signal.SIGSTOP:
            os.kill(pid, signal.SIGKILL)
        group.close()
