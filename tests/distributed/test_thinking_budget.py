"""The real engine under a budget of thoughts: where they end, what is forced, and whose log-probs are whose."""

import numpy as np
import pytest
import torch

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.types import FinishReason, Task
from tests.support.engine_process import EngineProcess
from tests.support.streams import flat, questions
from tests.support.tiny_policy import write_tiny_folder

pytestmark = [pytest.mark.distributed, pytest.mark.long]

CONFIG = RolloutConfig(dtype="fp32", max_model_len=128, max_num_seqs=32, kv_cache_gib=0.0625)
SAMPLING = SamplingConfig(max_tokens=48, thinking_budget=12, thinking_overrun=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("thinking")
    path = write_tiny_folder(
        base / "model", vocab_size=384, hidden_size=128, intermediate_size=256, head_dim=32, eos_token_id=2
    )
    train_nano_tokenizer((), base / "model")
    return path


def generate(worker, asked, sampling, seed):
    return sorted(flat(worker.generate(questions(asked, 8), sampling, seed)), key=lambda r: (r.task_id, r.sample))


def test_thoughts_end_within_budget_and_overrun_and_nothing_forced_counts_as_sampled(folder):
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    opened = [Task(f"think/{i}", "x", "math", tokenizer.encode(f"user\n{i}\n<think>\n"), {}) for i in range(4)]
    plain = [Task(f"plain/{i}", "x", "math", tokenizer.encode(f"user\n{i}\n"), {}) for i in range(4)]
    engine = EngineProcess(model_path=folder, config=CONFIG, seed=0, threads=1, device="cpu")
    try:
        found = engine.do(generate, opened + plain, SAMPLING, 3)
        again = engine.do(generate, opened + plain, SAMPLING, 3)
    finally:
        engine.close()
    assert [(r.token_ids.tobytes(), r.sampled_logprobs.tobytes()) for r in found] == [
        (r.token_ids.tobytes(), r.sampled_logprobs.tobytes()) for r in again
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    closed = 0
    for rollout in found:
        (turn,) = rollout.turns
        begin, end = turn.forced
        response = rollout.response_ids
        assert len(response) <= SAMPLING.max_tokens
        assert rollout.finish_reason is FinishReason.STOP or len(response) == SAMPLING.max_tokens
        assert rollout.num_sampled == len(response) - (end - begin) == len(rollout.sampled_logprobs)
        if rollout.task_id.startswith("plain") and "<think>" not in tokenizer.decode(response):
            assert (begin, end) == (0, 0)
        if begin < end:
            closed += 1
            assert 12 <= begin - turn.begin <= 17
            assert tokenizer.decode(rollout.token_ids[begin:end]) in ("</think>", "\n</think>")
            thought = tokenizer.decode(rollout.token_ids[turn.begin : begin])
            assert begin - turn.begin in (12 + 5,) or "\n" in thought[-1:], "up to the end of a line, or the overrun"
            assert "</think>" in response_text(tokenizer, response, rollout.context_ids)
        # What was sampled has the model's own probability, behind the forced tokens as well as before them.
        ids = torch.from_numpy(rollout.token_ids.astype(np.int64))
        with torch.no_grad():
            own = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
        sampled = rollout.trained[1:] > 0
        np.testing.assert_allclose(rollout.logprobs[1:][sampled], own[sampled], atol=2e-4)
    assert closed > 16
