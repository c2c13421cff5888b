"""Experts and state spaces in the engine: trained weights reach it, and it proves what it holds and computes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.errors import WeightSyncError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.rules import fp32_names
from nemo_cascade.rollout.buckets import write_buckets
from tests.distributed.test_own_family import hand_over, probe
from tests.support.engine_process import EngineProcess
from tests.support.hf_models import write_hf_model
from tests.support.routed import Replayed, choices
from tests.support.tiny_policy import VOCAB, Job, TinySource, launch_jobs, policy_setup

pytestmark = pytest.mark.distributed


def train(worker, argument):
    setup, exported = argument
    worker.setup(setup)
    for step in range(2):
        worker.train_step(TinySource(), step)
    worker.export_hf(exported)


def replay(worker, setup):
    """Return scores by the router's own choices, the same ones replayed in another order, and by others."""
    worker.setup(setup)
    own = choices(worker, 0)
    given = [None, [c[..., ::-1] for c in own], [(c + 1) % 8 for c in own]]
    return [worker.logprobs(TinySource() if routed is None else Replayed({0: routed}), 0) for routed in given]


def keep_biases(worker):
    """Make vLLM's loader leave every expert's bias as it is, though it says otherwise, from now on."""

    def stale(extension):
        model = extension.model_runner.get_model()
        load = model.load_weights

        def wrong(weights):
            held = {n: p.clone() for n, p in model.named_parameters() if n.endswith("e_score_correction_bias")}
            written = load(weights)
            with torch.no_grad():
                for name, values in held.items():
                    model.get_parameter(name).copy_(values)
            return written

        model.load_weights = wrong

    worker._call(stale)


@pytest.fixture(scope="module", params=[pytest.param("qwen3_moe", marks=pytest.mark.long), "nemotron_h"])
def trained(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    write_hf_model(root / "start", request.param)
    setup = policy_setup(str(root / "start"), dp=2, ep=2)
    alone = policy_setup(str(root / "start"))
    jobs = [Job("train", (0, 1), train, (setup, str(root / "trained"))), Job("replay", (0,), replay, alone)]
    (replayed,) = launch_jobs(jobs, world_size=2)["replay"]
    return request.param, root / "start", root / "trained", replayed


def test_replay_changes_no_bit_where_choices_agree(trained):
    *_, (own, same, others) = trained
    for ours, equal, different in zip(own, same, others, strict=True):
        np.testing.assert_array_equal(equal, ours)
        assert np.abs(different - ours).max() > 1e-3


def buckets_of(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    kept = fp32_names(read_architecture(folder))
    return list(write_buckets(weights.items(), 1 << 18, dtype, checksums=True, fp32=kept))


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.long)])
def test_the_engine_holds_what_was_trained_and_computes_it(trained, dtype):
    from transformers import AutoModelForCausalLM

    name, start, folder, _ = trained
    config = RolloutConfig(dtype=dtype, max_model_len=128, max_num_seqs=8, kv_cache_gib=0.0625)
    engine = EngineProcess(model_path=str(start), config=config, seed=0, threads=1, device="cpu")
    try:
        full = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
        engine.do(hand_over, buckets_of(folder, full), 1)
        if dtype == "fp32":
            rng = np.random.default_rng(2)
            sequences = [rng.integers(8, VOCAB, n).astype(np.int32) for n in (60, 3, 100)]
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            for sequence, found in zip(sequences, engine.do(probe, sequences), strict=True):
                ids = torch.from_numpy(sequence.astype(np.int64))
                with torch.no_grad():
                    expected = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
                np.testing.assert_allclose(found, expected.numpy(), atol=5e-5)
        if name == "nemotron_h" and dtype == "bf16":
            engine.do(keep_biases)
            with pytest.raises(WeightSyncError, match=r"4 of .* differ.*e_score_correction_bias"):
                engine.do(hand_over, buckets_of(start, full), 2)
    finally:
        engine.close()
