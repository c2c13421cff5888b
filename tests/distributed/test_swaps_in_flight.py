"""A real engine whose weights change under what it answers: each token is sampled by the weights that it names."""

import numpy as np
import pytest
import torch

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.rollout.buckets import SyncSummary, write_buckets
from nemo_cascade.types import FinishReason, Question
from tests.support.engine_process import EngineProcess
from tests.support.tiny_policy import VOCAB, write_tiny_folder

pytestmark = [pytest.mark.distributed, pytest.mark.long, pytest.mark.timeout(600)]

CONFIG = RolloutConfig(dtype="fp32", max_model_len=256, max_num_seqs=8, kv_cache_gib=0.0625)
SAMPLING = SamplingConfig(max_tokens=96)
SAMPLES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("swaps")
    return write_tiny_folder(base / "model", hidden_size=128, intermediate_size=256, head_dim=32, eos_token_id=7)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(folder):
    made = EngineProcess(model_path=folder, config=CONFIG, seed=0, threads=1, device="cpu")
    yield made
    made.close()


def scaled(model, scale):
    """All weights but the head, which is tied to the embedding."""
    return {name: tensor * scale for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def hand_over(worker, buckets, version):
    worker.begin_update(version)
    for bucket in buckets:
        worker.receive(bucket)
    worker.finish_update(SyncSummary.of(buckets))


def questions(count):
    rng = np.random.default_rng(1)
    return [Question(f"p{i}", rng.integers(8, VOCAB, 20).astype(np.int32), range(SAMPLES)) for i in range(count)]


def steps(worker, asked, first, count):
    """Ask, and take `count` engine steps; return what ended."""
    ended = worker.advance(asked, SAMPLING, 0.0, first)
    for _ in range(count):
        ended += worker.advance([], SAMPLING, 0.0, False)
    return ended


def answer_all(worker, ended):
    while worker._under_way or worker._taken_back:
        ended += worker.advance([], SAMPLING, 1.0, False)
    return ended


def play(worker, asked, swaps):
    """Answer all, with other weights behind every ten engine steps; between them the engine does something else."""
    ended = steps(worker, [(question, 3) for question in asked], True, 10)
    for version, buckets in swaps:
        worker.take_back()
        other = Question("other", np.arange(8, 30, dtype=np.int32), range(2))
        assert sum(len(some) for some in worker.generate([other], SamplingConfig(max_tokens=4), 1)) == 2
        hand_over(worker, buckets, version)
        ended += steps(worker, [], False, 10)
    return answer_all(worker, ended)


def logprobs_of(model, weights, token_ids):
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        logits = model(torch.as_tensor(token_ids[None].astype(np.int64))).logits[0].float()
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.as_tensor(token_ids[1:, None].astype(np.int64)))[:, 0]


def test_each_token_is_sampled_by_the_weights_that_it_names(engine, model):
    weights = {version: scaled(model, scale) for version, scale in ((0, 1.0), (1, 0.8), (2, 1.2))}
    swaps = [(v, list(write_buckets(weights[v].items(), 1 << 18, "float32"))) for v in (1, 2)]
    answers = engine.do(play, questions(4), swaps)
    assert {answer.place for answer in answers} == {(f"p{i}", s) for i in range(4) for s in range(SAMPLES)}
    assert {answer.finish_reason for answer in answers} <= {FinishReason.STOP, FinishReason.LENGTH}
    over = [answer for answer in answers if len(set(answer.versions[answer.trained > 0])) == 3]
    assert len(over) > len(answers) / 2  # nearly all were under way in all three
    for answer in answers:
        assert answer.num_sampled <= SAMPLING.max_tokens
        (turn,) = answer.turns
        assert answer.trained[turn.begin :].all()
        said = answer.versions[turn.begin :]
        assert (np.diff(said) >= 0).all()
        for version in set(said.tolist()):
            own = np.flatnonzero(answer.versions == version)
            scored = logprobs_of(model, weights[version], answer.token_ids)[own - 1].numpy()
            np.testing.assert_allclose(answer.logprobs[own], scored, atol=2e-4)


def give_some_up(worker, asked):
    steps(worker, [(question, 4) for question in asked], True, 5)
    lost = worker.give_up([("p0", sample) for sample in range(SAMPLES)])
    worker.take_back()
    lost_later = worker.give_up([("p1", sample) for sample in range(SAMPLES)])
    left = answer_all(worker, [])
    return lost, lost_later, left, worker._engine.has_unfinished_requests()


def test_what_is_given_up_is_gone_and_its_tokens_are_counted(engine):
    lost, lost_later, left, busy = engine.do(give_some_up, questions(3))
    assert 4 * SAMPLES <= lost <= 6 * SAMPLES
    assert 4 * SAMPLES <= lost_later <= 6 * SAMPLES
    assert {answer.task_id for answer in left} == {"p2"}
    assert not busy


def sampled_twice(worker, question):
    """Take an answer back behind each token, without other weights."""
    ended = steps(worker, [(question, 5)], True, 0)
    while worker._under_way or worker._taken_back:
        worker.take_back()
        ended += worker.advance([], SAMPLING, 0.0, False)
    return ended


def test_what_goes_on_draws_new_numbers(engine):
    (question,) = questions(1)
    for answer in engine.do(sampled_twice, question):
        said = answer.response_ids.tolist()
        assert len(set(said)) > len(said) / 3  # the same noise for each token would draw much the same ones
        assert answer.turns[0].swaps == ()
