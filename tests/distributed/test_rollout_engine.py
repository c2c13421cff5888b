"""The real engine. Two of the same tiny model: one that is put through everything, and one that stays fresh."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.errors import DeadlineError, RolloutError, RuntimeUnavailableError, WeightSyncError
from nemo_cascade.rollout.buckets import SyncSummary, write_buckets
from nemo_cascade.types import FinishReason, Task
from tests.support.engine_process import EngineProcess
from tests.support.streams import flat, questions
from tests.support.tiny_policy import VOCAB, write_tiny_folder

pytestmark = pytest.mark.distributed

STOP = 7
# Few tokens a step: prompts wait for each other, and none may be prefilled in pieces.
CONFIG = RolloutConfig(
    dtype="fp32", max_model_len=256, max_num_seqs=48, max_num_batched_tokens=300, kv_cache_gib=0.0625
)
SAMPLING = SamplingConfig(max_tokens=96)
SHORT = SamplingConfig(max_tokens=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("engine")
    # Peaked enough that a wrong weight or a wrong temperature shows.
    return write_tiny_folder(base / "model", hidden_size=128, intermediate_size=256, head_dim=32, eos_token_id=STOP)


@pytest.fixture(scope="module")
def engines(folder):
    used, fresh = (EngineProcess(model_path=folder, config=CONFIG, seed=0, threads=1, device="cpu") for _ in range(2))
    yield used, fresh
    used.close()
    fresh.close()


@pytest.fixture(scope="module")
def used(engines):
    return engines[0]


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def prompts(count=6, length=70):
    rng = np.random.default_rng(5)
    shared = rng.integers(8, VOCAB, 40)
    return [
        Task(f"set/{i}", "math", "math", np.r_[shared, rng.integers(8, VOCAB, length - 40)].astype(np.int32), {})
        for i in range(count)
    ]


def generate(worker, asked, samples, sampling, seed):
    """Return the rollouts, and how many prompt tokens were found in the prefix cache."""
    place, step, found = {prompt.task_id: i for i, prompt in enumerate(asked)}, type(worker)._step, []

    def counting(waiting, deadline):
        ended = step(worker, waiting, deadline)
        found.extend(output.num_cached_tokens or 0 for output in ended)
        return ended

    worker._step = counting
    rollouts = flat(worker.generate(questions(asked, samples), sampling, seed))
    return sorted(rollouts, key=lambda r: (place[r.task_id], r.sample)), sum(found)


def leave_early(worker, asked):
    rollouts = flat(worker.generate(questions(asked, 4), SAMPLING, 99))
    first = next(rollouts)
    rollouts.close()
    return first.task_id


def probe(worker, sequences, temperature=1.0):
    return worker.probe(sequences, temperature)


def bits(rollouts):
    return [
        (r.task_id, r.sample, r.response_ids.tobytes(), r.sampled_logprobs.tobytes(), r.finish_reason) for r in rollouts
    ]


def logprobs_of(model, sequence, temperature=1.0):
    """Return transformers' log-probs [tokens - 1] of a sequence, and of the whole vocabulary [tokens - 1, V]."""
    ids = torch.from_numpy(sequence.astype(np.int64))
    with torch.no_grad():
        all_logprobs = (model(ids[None]).logits[0, :-1] / temperature).log_softmax(-1)
    return all_logprobs.gather(1, ids[1:, None])[:, 0].numpy(), all_logprobs


def hand_over(worker, buckets, version, sent=None):
    worker.begin_update(version)
    for bucket in buckets:
        worker.receive(bucket)
    worker.finish_update(sent or SyncSummary.of(buckets))
    return worker.version


def phase(worker):
    return str(worker.phase)


def weights_of(model, scale=1.0):
    return {name: tensor * scale for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@pytest.mark.long
def test_the_same_call_gives_the_same_bits_whatever_the_engine_did_before(engines, model):
    used, fresh = engines
    asked = prompts()
    # All that could leave a trace: other batches, other sampling, an abandoned generation, other weights and back.
    used.do(generate, asked[3:], 9, SamplingConfig(max_tokens=20, temperature=0.7, top_p=0.9), 1)
    used.do(leave_early, asked)
    used.do(probe, [asked[0].token_ids])
    other = list(write_buckets(weights_of(model, 0.5).items(), 1 << 18, "float32"))
    used.do(hand_over, other, 1)
    changed, _ = used.do(generate, asked, 10, SHORT, 3)
    same = list(write_buckets(weights_of(model).items(), 1 << 18, "float32"))
    used.do(hand_over, same, 2)

    first, _ = used.do(generate, asked, 10, SHORT, 3)
    second, _ = fresh.do(generate, asked, 10, SHORT, 3)
    assert len(first) == 6 * 10 > CONFIG.max_num_seqs  # more than fit at once: queueing is part of the promise
    assert bits(first) == bits(second)
    assert bits(first) != bits(changed)
    assert {r.turns[-1].version for r in changed} == {1}
    assert {r.turns[-1].version for r in first} == {2}
    assert bits(used.do(generate, asked, 10, SHORT, 4)[0]) != bits(first)


def test_samples_of_a_prompt_differ_share_its_prefix_and_end_as_they_say(used):
    asked = prompts()
    rollouts, shared = used.do(generate, asked, 8, SAMPLING, 11)
    assert shared >= 6 * 7 * 64  # all but the first sample of a prompt find its two full blocks of 32
    assert len({r.response_ids.tobytes() for r in rollouts}) == 48
    reasons = {r.finish_reason for r in rollouts}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    for r in rollouts:
        assert (r.response_ids == STOP).sum() == (r.finish_reason == FinishReason.STOP)
        assert (r.response_ids[-1] == STOP) == (r.finish_reason == FinishReason.STOP)
        assert r.finish_reason == FinishReason.STOP or r.response_ids.size == 96
        assert np.array_equal(r.context_ids, asked[int(r.task_id[4:])].token_ids)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_the_distribution_that_was_sampled(used, model, temperature):
    sampling = SamplingConfig(max_tokens=24, temperature=temperature)
    for r in used.do(generate, prompts(3), 2, sampling, 5)[0]:
        expected, _ = logprobs_of(model, r.token_ids, temperature)
        np.testing.assert_allclose(r.sampled_logprobs, expected[r.context_ids.size - 1 :], atol=2e-5)


def test_a_cut_distribution_is_scored_as_cut(used, model):
    for r in used.do(generate, prompts(2), 4, SamplingConfig(max_tokens=16, top_k=5), 5)[0]:
        _, everything = logprobs_of(model, r.token_ids)
        kept = everything[r.context_ids.size - 1 :].topk(5)
        scores = (kept.values - kept.values.logsumexp(-1, keepdim=True)).numpy()
        for token, logprob, ids, row in zip(
            r.response_ids, r.sampled_logprobs, kept.indices.numpy(), scores, strict=True
        ):
            assert logprob == pytest.approx(row[list(ids).index(token)], abs=2e-5)


def test_temperature_zero_is_the_likeliest_token(used, model):
    for r in used.do(generate, prompts(2), 1, SamplingConfig(max_tokens=12, temperature=0.0), 5)[0]:
        _, everything = logprobs_of(model, r.token_ids)
        assert np.array_equal(everything[r.context_ids.size - 1 :].argmax(-1).numpy(), r.response_ids)


def test_the_probe_scores_given_tokens_even_when_their_prefix_is_cached(used, model):
    rollouts, _ = used.do(generate, prompts(2), 2, SAMPLING, 6)
    sequences = [r.token_ids for r in rollouts]
    for temperature in (1.0, 0.5):
        for sequence, scores in zip(sequences, used.do(probe, sequences, temperature), strict=True):
            np.testing.assert_allclose(scores, logprobs_of(model, sequence, temperature)[0], atol=2e-5)
    with pytest.raises(RolloutError, match=r"2\.\.255 tokens"):
        used.do(probe, [np.zeros(256, np.int32)])


def test_prompts_without_room_are_refused_by_name_and_nothing_is_left_running(used):
    long = Task("set/long", "math", "math", np.zeros(161, np.int32), {})
    with pytest.raises(RolloutError, match="set/long \\(161 tokens\\)"):
        used.do(generate, [*prompts(1), long], 2, SAMPLING, 1)
    fits = Task("set/fits", "math", "math", np.full(160, 9, np.int32), {})
    assert used.do(generate, [fits], 1, SAMPLING, 1)[0][0].response_ids.size <= 96


def late(worker, asked):
    object.__setattr__(worker.config, "generate_deadline_s", 0.05)
    try:
        return list(flat(worker.generate(questions(asked, 16), SAMPLING, 1)))
    finally:
        object.__setattr__(worker.config, "generate_deadline_s", CONFIG.generate_deadline_s)


def test_a_generation_over_its_deadline_stops_and_the_engine_goes_on(used):
    with pytest.raises(DeadlineError, match="rollouts are unfinished"):
        used.do(late, prompts())
    assert len(used.do(generate, prompts(1), 1, SAMPLING, 1)[0]) == 1


def test_new_weights_replace_every_parameter_and_all_cached_prefixes(used, model):
    asked = prompts(2)
    used.do(generate, asked, 2, SAMPLING, 8)  # fills the prefix cache with what the old weights computed
    generator = torch.Generator().manual_seed(1)
    new = {n: w + 0.05 * torch.randn(w.shape, generator=generator) for n, w in weights_of(model).items()}
    assert used.do(hand_over, list(write_buckets(new.items(), 1 << 18, "float32")), 20) == 20
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(new, strict=False)
        for r in used.do(generate, asked, 2, SAMPLING, 8)[0]:
            expected, _ = logprobs_of(model, r.token_ids)
            np.testing.assert_allclose(r.sampled_logprobs, expected[r.context_ids.size - 1 :], atol=2e-5)
            assert r.turns[-1].version == 20
    finally:
        model.load_state_dict(original)


@pytest.mark.parametrize("fault", ["missing", "unknown", "flipped", "other"])
def test_a_faulty_hand_over_breaks_the_engine_until_a_whole_one_comes(used, model, fault):
    weights = weights_of(model)
    version = used.do(version_of) + 1
    if fault == "missing":
        weights.pop("model.layers.1.self_attn.k_proj.weight")
    if fault == "unknown":
        weights["model.layers.9.self_attn.k_proj.weight"] = torch.zeros(2, 2)
    buckets = list(write_buckets(weights.items(), 1 << 18, "float32"))
    sent = SyncSummary.of(buckets)
    if fault == "flipped":
        raw = bytearray(Path(buckets[1].path).read_bytes())
        raw[64] ^= 0x40
        Path(buckets[1].path).write_bytes(raw)
    if fault == "other":
        sent = SyncSummary(sent.buckets, sent.tensors, sent.nbytes, "0" * 64)
    message = {
        "missing": "1 of .* never sent",
        "unknown": "no such weight",
        "flipped": "changed on its way",
        "other": "other weights than were sent",
    }[fault]
    with pytest.raises(WeightSyncError, match=message):
        used.do(hand_over, buckets, version, sent)
    assert used.do(phase) == "broken"
    with pytest.raises(WeightSyncError, match="complete set of weights"):
        used.do(generate, prompts(1), 1, SAMPLING, 1)
    whole = list(write_buckets(weights_of(model).items(), 1 << 18, "float32"))
    assert used.do(hand_over, whole, version + 1) == version + 1
    scores = used.do(probe, [prompts(1)[0].token_ids])[0]
    np.testing.assert_allclose(scores, logprobs_of(model, prompts(1)[0].token_ids)[0], atol=2e-5)


def version_of(worker):
    return worker.version


def misplace_a_slice(worker):
    """Make vLLM's loader put two rows of one weight into each other's place, from now on."""

    def misplaced(extension):
        model = extension.model_runner.get_model()
        load = model.load_weights

        def wrong(weights):
            written = load(weights)
            with torch.no_grad():
                rows = model.get_parameter("model.layers.2.self_attn.qkv_proj.weight")[130:132]
                rows.copy_(rows.flip(0))
            return written

        model.load_weights = wrong

    worker._call(misplaced)


def test_a_wrong_slice_of_one_weight_is_caught_in_bf16(folder, model):
    config = replace(CONFIG, dtype="bf16")
    engine = EngineProcess(model_path=folder, config=config, seed=0, threads=1, device="cpu")
    try:
        buckets = list(write_buckets(weights_of(model).items(), 1 << 30, "bfloat16", checksums=True))
        assert engine.do(hand_over, buckets, 1) == 1
        before = engine.do(probe, [prompts(1)[0].token_ids])[0]
        engine.do(misplace_a_slice)
        with pytest.raises(WeightSyncError, match=r"1 of .* differ.*model\.layers\.2\.self_attn\.k_proj\.weight"):
            engine.do(hand_over, buckets, 2)
        assert engine.do(phase) == "broken"
        # Without checksums nobody would know: log-probs differ by less than bf16 may round.
        engine.do(hand_over, list(write_buckets(weights_of(model).items(), 1 << 30, "bfloat16")), 3)
        after = engine.do(probe, [prompts(1)[0].token_ids])[0]
        assert 0 < np.abs(after - before).mean() < 0.1
    finally:
        engine.close()


def generate_during_update(worker, asked):
    rollouts = flat(worker.generate(questions(asked, 2), SAMPLING, 1))
    next(rollouts)
    try:
        worker.begin_update(10**6)
    finally:
        rollouts.close()


def test_versions_only_go_up_and_never_change_under_a_running_generation(used):
    with pytest.raises(WeightSyncError, match="only go up"):
        used.do(hand_over, [], 0)
    with pytest.raises(WeightSyncError, match="still generating"):
        used.do(generate_during_update, prompts())
    assert used.do(phase) == "generating"


def test_an_engine_on_cpu_has_one_process(folder):
    from nemo_cascade.rollout.engine import RolloutWorker

    config = RolloutConfig(dtype="fp32", tensor_parallel_size=2)
    with pytest.raises(RuntimeUnavailableError, match="num_engines"):
        RolloutWorker(model_path=folder, config=config, seed=0, threads=1, device="cpu")


@pytest.mark.long
def test_smollm2_scores_and_takes_new_weights_exactly(smollm2_folder):
    from transformers import AutoModelForCausalLM

    config = RolloutConfig(dtype="fp32", max_model_len=128, max_num_seqs=8, kv_cache_gib=0.125)
    engine = EngineProcess(model_path=str(smollm2_folder), config=config, seed=0, threads=1, device="cpu")
    try:
        model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
        vocab = json.loads((Path(smollm2_folder) / "config.json").read_text())["vocab_size"]
        sequence = np.random.default_rng(0).integers(0, vocab, 48).astype(np.int32)
        before = engine.do(probe, [sequence])[0]
        np.testing.assert_allclose(before, logprobs_of(model, sequence)[0], atol=2e-4)
        # The embedding alone is what a stale tied head would give away.
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(1.02)
        engine.do(hand_over, list(write_buckets(weights_of(model).items(), 1 << 27, "float32")), 1)
        after = engine.do(probe, [sequence])[0]
        np.testing.assert_allclose(after, logprobs_of(model, sequence)[0], atol=2e-4)
        assert np.abs(after - before).max() > 1e-2
    finally:
        engine.close()
