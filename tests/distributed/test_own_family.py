"""A family that isn't shipped, named by where it is: from its HF folder through training into the engine, and back."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemo_cascade.config.model import ModelConfig
from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.errors import ModelError, WeightSyncError
from nemo_cascade.rollout.buckets import SyncSummary, write_buckets
from tests.support.engine_process import EngineProcess
from tests.support.hf_models import PHI3
from tests.support.tiny_policy import VOCAB, Job, TinySource, launch_jobs, policy_setup

pytestmark = pytest.mark.distributed

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 7,
}


def train(worker, argument):
    setup, exported = argument
    worker.setup(setup)
    losses = [worker.train_step(TinySource(), step).loss for step in range(2)]
    worker.export_hf(exported)
    return losses


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder at the start, and one that two steps were trained from it in two layouts."""
    from transformers import AutoConfig, AutoModelForCausalLM

    root = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi3", **SIZES), dtype=torch.float32)
    model.save_pretrained(root / "start")
    model = ModelConfig(name="own", path=str(root / "start"), family=PHI3)
    jobs = [
        Job(name, ranks, train, (policy_setup(str(root / "start"), model=model, **layout), str(root / name)))
        for name, ranks, layout in (("tp2", (0, 1), {"tp": 2}), ("one", (0,), {}))
    ]
    answers = launch_jobs(jobs, world_size=2)
    return root / "start", root / "tp2", root / "one", answers


def hand_over(worker, buckets, version):
    worker.begin_update(version)
    for bucket in buckets:
        worker.receive(bucket)
    worker.finish_update(SyncSummary.of(buckets))


def probe(worker, sequences):
    return worker.probe(sequences, 1.0)


def swap_heads(worker):
    """Make vLLM's loader put two query heads of a stacked tensor in each other's place, from now on."""

    def swapped(extension):
        model = extension.model_runner.get_model()
        load = model.load_weights

        def wrong(weights):
            written = load(weights)
            with torch.no_grad():
                rows = model.get_parameter("model.layers.1.self_attn.qkv_proj.weight")[:64]
                rows.copy_(rows.roll(32, 0))
            return written

        model.load_weights = wrong

    worker._call(swapped)


def test_layouts_agree_and_what_is_written_is_what_was_read(trained):
    start, split, single, answers = trained
    losses = answers["tp2"][0]
    assert losses[1] < losses[0]
    np.testing.assert_allclose(losses, answers["one"][0], rtol=1e-5)
    before, after, other = (load_file(folder / "model.safetensors") for folder in (start, split, single))
    assert before.keys() == after.keys() == other.keys()
    for name in before:
        assert not torch.equal(before[name], after[name])
        torch.testing.assert_close(after[name], other[name], atol=2e-4, rtol=2e-3)
    read = [json.loads((folder / "config.json").read_text()) for folder in (start, split)]
    assert read[0] | {"dtype": "float32"} == read[1] | {"dtype": "float32"}


@pytest.mark.long  # others meet the engine's way: test_mixture_engine, test_rollout_engine
def test_trained_weights_reach_the_engine_which_proves_that_it_holds_them(trained):
    from transformers import AutoModelForCausalLM

    start, split, _, _ = trained
    config = RolloutConfig(dtype="fp32", max_model_len=128, max_num_seqs=8, kv_cache_gib=0.0625)
    engine = EngineProcess(model_path=str(start), config=config, seed=0, threads=1, device="cpu", family=PHI3)
    try:
        weights = load_file(split / "model.safetensors")
        buckets = list(write_buckets(weights.items(), 1 << 18, "float32", checksums=True))
        engine.do(hand_over, buckets, 1)
        sequence = np.random.default_rng(2).integers(8, VOCAB, 60).astype(np.int32)
        [found] = engine.do(probe, [sequence])
        model = AutoModelForCausalLM.from_pretrained(split, dtype=torch.float32).eval()
        ids = torch.from_numpy(sequence.astype(np.int64))
        with torch.no_grad():
            expected = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
        engine.do(swap_heads)
        with pytest.raises(WeightSyncError, match=r"1 of .* differ.*model\.layers\.1\.self_attn\.qkv_proj\.weight"):
            engine.do(hand_over, list(write_buckets(weights.items(), 1 << 18, "float32", checksums=True)), 2)
    finally:
        engine.close()


def test_without_its_name_it_is_refused(trained):
    from nemo_cascade.models.hf_config import read_architecture

    with pytest.raises(ModelError, match=r"model\.family"):
        read_architecture(trained[0])
    with pytest.raises(ModelError, match="not a family"):
        read_architecture(trained[0], "tests.support.hf_models:write_hf_model")
