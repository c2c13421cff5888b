"""Attention padded with zero groups trains as the model without them, and its checkpoints know no padding."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.support.tiny_policy import Job, TinySource, launch_jobs, policy_setup, write_tiny_folder

# hf_parity has the same padding's logits in the suite; training with it is of `make matrix`.
pytestmark = [pytest.mark.distributed, pytest.mark.long, pytest.mark.timeout(900)]

# Three key/value heads under TP 2: a fourth group of zeros, on the second rank.
THREE = {"num_attention_heads": 9, "num_key_value_heads": 3}
MODELS = {
    "qwen3": THREE,  # norms of queries and keys
    "qwen2": THREE | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},  # their biases
}
LAYOUTS = {"qwen3": {"tp": 2, "dp": 2, "sp": True}, "qwen2": {"tp": 2, "pp": 2}}


def _train(worker, argument):
    """Take two steps (or load them), then two more; returns facts, curve and the padding, and writes what came out."""
    setup, saved, loaded, exported = argument
    facts = worker.setup(setup)
    if loaded:
        worker.load_checkpoint(loaded)
    else:
        curve = [worker.train_step(TinySource(), step) for step in range(2)]
    if saved:
        worker.save_checkpoint(saved, {})
    later = [worker.train_step(TinySource(), step) for step in (2, 3)]
    worker.export_hf(exported)
    curve = later if loaded else curve + later
    return facts["padding_query_groups"], [(s.loss, s.grad_norm) for s in curve], _padding(worker, setup)


def _padding(worker, setup):
    """Return how many numbers of weights and gradients are padding, and how many of those are not zero."""
    from nemo_cascade.models.weights import mapped_parameters

    tp = worker._joined.axes["tp"]
    size, rank = tp.size, tp.rank
    own, ready = 4 // size, worker._set_up
    found = []
    parameters = ready.chunks[0].module.parameters()
    mapped = mapped_parameters(ready.chunks, ready.arch, worker._joined.axes)
    for held, parameter in zip(mapped, parameters, strict=True):
        if size == 2 and "self_attention.linear" in held.name:
            for tensor in (parameter.detach(), parameter.main_grad):
                rows = tensor.T if "linear_proj" in held.name else tensor
                groups = rows.unflatten(0, (own, -1))
                assert all(bool(group.any()) for group in groups[: 3 - rank * own])
                found.append(groups[3 - rank * own :])
    return sum(group.numel() for group in found), sum(int(group.count_nonzero()) for group in found)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    root = tmp_path_factory.mktemp("padding")
    jobs = []
    for name, changes in MODELS.items():
        hf = write_tiny_folder(root / name, intermediate_size=96, **changes)
        plain, padded = policy_setup(hf), policy_setup(hf, **LAYOUTS[name])
        for kind in ("plain", "padded"):
            (root / f"{name} {kind} checkpoint").mkdir()

        def job(title, setup, ranks, saved=None, loaded=None, name=name):
            folders = (str(root / f"{name} {kind} checkpoint") if kind else None for kind in (saved, loaded))
            return Job(f"{name} {title}", ranks, _train, (setup, *folders, str(root / f"{name} {title}")))

        jobs += [
            job("plain", plain, (0,), saved="plain"),
            job("padded", padded, (0, 1, 2, 3), saved="padded"),
            job("plain to padded", padded, (0, 1, 2, 3), loaded="plain"),
            job("padded to padded", padded, (0, 1, 2, 3), loaded="padded"),
            job("padded to plain", plain, (0,), loaded="padded"),
        ]
    return root, launch_jobs(jobs)


@pytest.mark.parametrize("title", ["padded", "plain to padded", "padded to padded", "padded to plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_padded_model_trains_as_the_model_itself_from_either_ones_checkpoint(outcome, name, title):
    root, answers = outcome
    expected = answers[f"{name} plain"][0][1]
    for _, curve, _ in answers[f"{name} {title}"]:
        np.testing.assert_allclose(curve, expected[-len(curve) :], rtol=1e-5)
    weights, others = (load_file(root / f"{name} {kind}" / "model.safetensors") for kind in ("plain", title))
    start = load_file(root / name / "model.safetensors")
    assert others.keys() == weights.keys()
    for key, weight in weights.items():
        # Of what training changed: a wrong head gives about 1, rounding under Adam without padding gave up to 7e-4.
        changed = (weight - start[key]).norm()
        assert (others[key] - weight).norm() < 3e-3 * changed, key
        assert changed > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_padding_stays_exactly_zero_and_is_told(outcome, name):
    _, answers = outcome
    assert answers[f"{name} plain"][0][0] == 0
    for title in ("padded", "plain to padded", "padded to padded"):
        numbers = [padding for facts, _, padding in answers[f"{name} {title}"] if facts == 1]
        assert len(numbers) == 4
        assert [nonzero for _, nonzero in numbers] == [0, 0, 0, 0]
        assert [count > 0 for count, _ in numbers] == [False, True, False, True]
