"""Experts and state spaces: the same training in every layout; a checkpoint of one goes on in another."""

import numpy as np
import pytest

from nemo_cascade.config.router import RouterConfig
from nemo_cascade.training.checkpoints.folders import CheckpointStore
from tests.support.hf_models import write_hf_model
from tests.support.tiny_policy import Job, TinySource, launch_jobs, policy_setup

STEPS = 10
ROUTER = RouterConfig(bias_update_rate=0.01, balance_coefficient=0.05, z_coefficient=0.01, starving_share=0.5)
LAYOUTS = {
    "one": ((0,), {}),
    "pp2": ((0, 1), {"pp": 2}),
    "tp2": ((2, 3), {"tp": 2, "sp": True}),
    "dp2": ((0, 1), {"dp": 2}),
    "ep2": ((2, 3), {"dp": 2, "ep": 2}),
    "tp2 ep2": ((0, 1), {"tp": 2, "sp": True, "ep": 2}),
    "tp2 ep2 etp2": ((0, 1, 2, 3), {"tp": 2, "dp": 2, "sp": True, "ep": 2, "etp": 2}),
    "cp2 ep2": ((2, 3), {"cp": 2, "ep": 2}),
    "pp2 ep2": ((0, 1, 2, 3), {"pp": 2, "dp": 2, "ep": 2}),
}
RESUMED = ("one", "pp2", "tp2 ep2", "pp2 ep2")


def curve(worker, argument):
    setup, saved = argument
    worker.setup(setup)
    results = []
    for step in range(STEPS):
        if step == 4 and saved:
            worker.save_checkpoint(saved, {})
        results.append(worker.train_step(TinySource(), step))
    told = [r.metrics | r.expert_load for r in results]
    return [(r.loss, r.grad_norm) for r in results], told, biases(worker)


def resumed(worker, argument):
    setup, folder = argument
    worker.setup(setup)
    worker.load_checkpoint(folder)
    results = [worker.train_step(TinySource(), step) for step in range(4, STEPS)]
    return [(r.loss, r.grad_norm) for r in results], biases(worker)


def biases(worker):
    """Return the experts' biases by layer; nothing but on the first rank."""
    return {n: t.clone().numpy() for n, t in worker.weight_tensors() if n.endswith("e_score_correction_bias")}


@pytest.fixture(scope="module", params=["qwen3_moe", "nemotron_h"])
def answers(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    hf = str(write_hf_model(root / "start", request.param))
    stores = {name: CheckpointStore(root / name, keep=2) for name in ("ep2", "tp2 ep2 etp2")}
    with stores["ep2"].saving(4) as ep2, stores["tp2 ep2 etp2"].saving(4) as etp2:
        folders = {"ep2": str(ep2), "tp2 ep2 etp2": str(etp2)}
        jobs = [
            Job(name, ranks, curve, (policy_setup(hf, router=ROUTER, **layout), folders.get(name)))
            for name, (ranks, layout) in LAYOUTS.items()
            if "cp" not in layout or request.param == "qwen3_moe"
        ]
        jobs += [
            Job(f"{name} from {source}", ranks, resumed, (policy_setup(hf, router=ROUTER, **layout), folder))
            for name, (ranks, layout) in LAYOUTS.items()
            if name in RESUMED
            for source, folder in folders.items()
        ]
        return request.param, launch_jobs(jobs, deadline_s=600)


@pytest.mark.distributed
@pytest.mark.long
def test_every_layout_trains_alike_and_balances_alike(answers):
    name, found = answers
    expected, metrics, bias = found["one"][0]
    assert expected[-1][0] < expected[0][0]
    assert len(bias) == (0 if name == "qwen3_moe" else 4)
    assert metrics[0]["router_balance_loss"] > 0
    assert metrics[0]["router_z_loss"] > 0
    for layout, (ranks, _) in LAYOUTS.items():
        if layout not in found:
            continue
        for rank, _ in enumerate(ranks):
            numbers, told, _ = found[layout][rank]
            np.testing.assert_allclose(numbers, expected, rtol=2e-5, err_msg=layout)
            for ours, theirs in zip(told, metrics, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-4), layout
        for tensor, values in bias.items():
            np.testing.assert_array_equal(found[layout][0][2][tensor], values)


@pytest.mark.distributed
@pytest.mark.long
@pytest.mark.parametrize("source", ["ep2", "tp2 ep2 etp2"])
@pytest.mark.parametrize("layout", RESUMED)
def test_a_checkpoint_goes_on_in_another_layout(answers, layout, source):
    _, found = answers
    expected, _, bias = found["one"][0]
    for numbers, _ in found[f"{layout} from {source}"]:
        np.testing.assert_allclose(numbers, expected[4:], rtol=5e-5)
    for tensor, values in bias.items():
        np.testing.assert_allclose(found[f"{layout} from {source}"][0][1][tensor], values, atol=1e-6)
