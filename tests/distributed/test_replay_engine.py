"""The engine's experts replayed in the trainer: what is left between the two is what a model without choices has."""

import numpy as np
import pytest

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import sampled_document
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.types import Question
from tests.support.engine_process import EngineProcess
from tests.support.hf_models import MIXTURES, write_hf_model
from tests.support.tiny_policy import VOCAB, Job, launch_jobs, policy_setup

pytestmark = [pytest.mark.distributed, pytest.mark.long]
LENGTHS, SAMPLES, RESPONSE = (5, 60, 40, 33, 17, 9, 50, 21), 4, 40


def generated(worker, questions, sampling):
    return [answer for ended in worker.generate(questions, sampling, 3) for answer in ended]


def first_step(worker, argument):
    """Return what the first step says, with the engine's experts and with the router's own."""
    setup, source = argument
    told = []
    for batches in (source, source.without_routed_experts()):
        worker.setup(setup)
        told.append(worker.train_step(batches, 0).metrics)
    return told


def rollouts(folder):
    """Return answers of an engine in bf16, whose prompts partly share a prefix in its cache."""
    config = RolloutConfig(dtype="bf16", max_model_len=128, max_num_seqs=8, kv_cache_gib=0.0625)
    rng = np.random.default_rng(0)
    questions = [
        Question(f"q/{i}", rng.integers(8, VOCAB, n).astype(np.int32), range(SAMPLES)) for i, n in enumerate(LENGTHS)
    ]
    engine = EngineProcess(model_path=str(folder), config=config, seed=0, threads=1, device="cpu", routed_experts=True)
    try:
        return engine.do(generated, questions, SamplingConfig(max_tokens=RESPONSE), timeout_s=300)
    finally:
        engine.close()


def source_of(answers):
    extras = [{"behaviour_logprobs": a.logprobs, "advantages": a.trained.astype(np.float32)} for a in answers]
    documents = [sampled_document(a, own, replay=True) for a, own in zip(answers, extras, strict=True)]
    return balanced_micro_batches(documents, 512, 1)


@pytest.mark.parametrize("name", ["qwen3_moe", "nemotron_h"])
def test_replay_takes_the_mismatch_down_to_that_of_a_model_without_choices(name, tmp_path, monkeypatch):
    chosen = {key: 8 for key in MIXTURES[name] if key == "num_experts_per_tok"}
    monkeypatch.setitem(MIXTURES, "every_expert", MIXTURES[name] | chosen)
    jobs = []
    for model in (name, "every_expert"):
        folder = write_hf_model(tmp_path / model, model)
        answers = rollouts(folder)
        setup = policy_setup(str(folder), objective=PolicyLoss(PolicyLossConfig()))
        jobs.append(Job(model, (0,), first_step, (setup, source_of(answers))))
        tokens = sum(len(answer.token_ids) for answer in answers)
        assert all((answer.routed_experts[:-1] >= 0).all() for answer in answers)
        assert all((answer.routed_experts[-1] == -1).all() for answer in answers)
    found = launch_jobs(jobs, world_size=1)
    (replayed, own), (floor, _) = found[name][0], found["every_expert"][0]
    told = {n: [m[n] for m in (own, replayed, floor)] for n in ("logprob_difference_mean", "kl_engine")}
    print(name, told, replayed)
    assert own["kl_engine"] > 2 * replayed["kl_engine"], told
    assert own["logprob_difference_mean"] > 1.2 * replayed["logprob_difference_mean"], told
    assert replayed["logprob_difference_mean"] < 1.25 * floor["logprob_difference_mean"], told
    assert replayed["kl_engine"] < 1.5 * floor["kl_engine"], told
    assert floor["router_replay_share"] == pytest.approx(1 - len(LENGTHS) * SAMPLES / tokens)
    assert 0 < replayed["router_replay_disagreement"] < 0.1
    assert floor["router_replay_disagreement"] == 0
