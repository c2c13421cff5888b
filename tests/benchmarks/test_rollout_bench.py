"""How fast an engine starts, generates and takes new weights, for a nano-sized model."""

import time

import numpy as np
import pytest

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.rollout.buckets import SyncSummary, write_buckets
from nemo_cascade.types import Task
from tests.support.engine_process import EngineProcess
from tests.support.streams import flat, questions
from tests.support.tiny_policy import write_tiny_folder

pytestmark = pytest.mark.bench

VOCAB = 512


def generate(worker, prompts, samples):
    started = time.perf_counter()
    rollouts = list(flat(worker.generate(questions(prompts, samples), SamplingConfig(max_tokens=64), 0)))
    return sum(r.response_ids.size for r in rollouts) / (time.perf_counter() - started)


def hand_over(worker, folder, version):
    from pathlib import Path

    from safetensors.torch import load_file

    weights = load_file(worker.model_path / "model.safetensors")
    started = time.perf_counter()
    worker.begin_update(version)
    buckets = []
    for bucket in write_buckets(weights.items(), Path(folder), 1 << 28, "float32"):
        worker.receive(bucket)
        buckets.append(bucket)
    sent = SyncSummary.of(buckets)
    worker.finish_update(sent)
    return time.perf_counter() - started, sent.nbytes


@pytest.mark.parametrize("threads", [1, 2])
def test_engine_speed(tmp_path, threads):
    sizes = {"hidden_size": 128, "intermediate_size": 384, "head_dim": 32, "vocab_size": VOCAB, "eos_token_id": 2}
    folder = write_tiny_folder(tmp_path / "model", **sizes)
    config = RolloutConfig(dtype="fp32", max_model_len=512, kv_cache_gib=0.25, max_num_seqs=256)
    engine = EngineProcess(model_path=folder, config=config, seed=0, threads=threads, device="cpu")
    try:
        engine.wait_until_up()
        rng = np.random.default_rng(0)
        prompts = [Task(f"p/{i}", "", "", rng.integers(8, VOCAB, 48).astype(np.int32), {}) for i in range(16)]
        engine.do(generate, prompts[:4], 8)
        for samples in (4, 8, 16):
            speed = engine.do(generate, prompts, samples)
            print(f"\nthreads {threads}, {16 * samples} sequences: {speed:.0f} tok/s", end="")
        seconds, nbytes = engine.do(hand_over, str(tmp_path), 1)
        print(f"\nstart {engine.start_seconds:.1f} s; hand-over {seconds:.3f} s for {nbytes / 1e6:.1f} MB")
        assert speed > 0
    finally:
        engine.close()
