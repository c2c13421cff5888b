"""The policy on one GPU: NCCL world of one, bf16, Transformer Engine layers where they are installed.

Run with `pytest tests/gpu -m gpu -s`; prints speed and peak memory.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from nemo_cascade.config.model import ModelConfig, OptimizerConfig, PrecisionConfig
from tests.support.tiny_policy import Job, launch_jobs, make_pack, policy_setup, write_tiny_folder

pytestmark = pytest.mark.gpu
SHAPE = {
    "num_hidden_layers": 8,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class OnePack:
    """The same 4096 tokens at every step."""

    def micro_batches(self, step, dp_rank, dp_size):
        return [make_pack([1500, 1000, 700, 600, 296], seed=5)]


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return write_tiny_folder(tmp_path_factory.mktemp("model") / "gpu", **SHAPE)


def _setup(hf, **changes):
    optimizer = OptimizerConfig(lr=3e-4, lr_decay_style="constant")
    return replace(policy_setup(hf, dtype="bf16", seq_length=4096, optimizer=optimizer), **changes)


def _run(work, argument):
    return launch_jobs([Job("gpu", (0,), work, argument, device="gpu")], world_size=1)["gpu"][0]


def _tell(what, losses, tokens_per_s, peak):
    fall = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    print(f"\n{what}: {tokens_per_s:.0f} tokens/s, peak {peak / 2**30:.2f} GiB, {fall}")


def _train(worker, argument):
    from nemo_cascade.models.megatron import backend

    setup, steps = argument
    worker.setup(setup)
    source, losses, start = OnePack(), [], 0.0
    for step in range(steps):
        if step == 5:  # the first steps choose kernels
            start = time.perf_counter()
        losses.append(worker.train_step(source, step).loss)
    tokens_per_s = 4096 * (steps - 5) / (time.perf_counter() - start)
    return losses, tokens_per_s, backend.peak_memory_bytes()


def _score(worker, setup):
    worker.setup(setup)
    return worker.logprobs(OnePack(), 0)[0]


def _save(worker, argument):
    setup, folder = argument
    worker.setup(setup)
    for step in range(2):
        worker.train_step(OnePack(), step)
    worker.save_checkpoint(folder, {"step": 2})
    return worker.logprobs(OnePack(), 0)[0], worker.train_step(OnePack(), 2).loss


def _load(worker, argument):
    setup, folder = argument
    worker.setup(setup)
    assert worker.load_checkpoint(folder) == {"step": 2}
    return worker.logprobs(OnePack(), 0)[0], worker.train_step(OnePack(), 2).loss


@pytest.mark.parametrize("layers", ["auto", "local"])
def test_bf16_training_learns_a_batch(hf, layers):
    setup = _setup(hf, model=ModelConfig(name="gpu", path=hf, layer_spec=layers))
    losses, tokens_per_s, peak = _run(_train, (setup, 30))
    _tell(f"{layers} layers, bf16", losses, tokens_per_s, peak)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("recipe", ["tensorwise", "delayed", "blockwise", "mxfp8"])
def test_fp8_training_follows_bf16(hf, recipe):
    import torch

    pytest.importorskip("transformer_engine")
    least = {"tensorwise": (8, 9), "delayed": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}[recipe]
    if torch.cuda.get_device_capability() < least:
        pytest.skip(f"{recipe} needs compute capability {least}")
    losses, tokens_per_s, peak = _run(
        _train, (_setup(hf, precision=PrecisionConfig(fp8="hybrid", fp8_recipe=recipe)), 30)
    )
    expected, _, _ = _run(_train, (_setup(hf), 30))
    _tell(f"fp8 {recipe}", losses, tokens_per_s, peak)
    np.testing.assert_allclose(losses[:10], expected[:10], rtol=0.05)


def test_transformer_engine_and_local_layers_score_alike(hf):
    pytest.importorskip("transformer_engine")
    fast, plain = (
        _run(_score, _setup(hf, model=ModelConfig(name="gpu", path=hf, layer_spec=layers)))
        for layers in ("transformer_engine", "local")
    )
    assert np.abs(fast - plain).mean() < 0.02


def test_a_checkpoint_goes_on_where_it_was(hf, tmp_path):
    saved, after = _run(_save, (_setup(hf), str(tmp_path)))
    loaded, resumed = _run(_load, (_setup(hf), str(tmp_path)))
    assert np.array_equal(saved, loaded)
    assert resumed == pytest.approx(after, rel=1e-3)


def test_scoring_a_long_pack_takes_a_fraction_of_the_logits(hf):
    import torch

    from nemo_cascade.training.logprobs import label_logprobs

    tokens, rows, width = 32768, 19008, 1024  # 32K tokens, Qwen3's vocabulary over TP 8
    hidden, weight = (
        torch.randn(n, width, device="cuda", dtype=torch.bfloat16, requires_grad=True) for n in (tokens, rows)
    )
    labels = torch.randint(0, rows, (tokens,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprob, _ = label_logprobs(hidden, weight, labels, vocab_size=rows)
    torch.autograd.grad(logprob.sum(), (hidden, weight))
    extra, logits = torch.cuda.max_memory_allocated() - before, 2 * tokens * rows
    print(f"\nlogits {logits / 2**30:.2f} GiB, extra at most {extra / 2**30:.2f} GiB")
    assert extra < 0.6 * logits
