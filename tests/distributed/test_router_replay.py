"""Replay of experts in the trainer: nothing changes where choices agree; where they don't, the given ones count."""

from dataclasses import replace

import numpy as np
import pytest

from nemo_cascade.config.router import RouterConfig
from nemo_cascade.errors import TrainingError
from tests.support.hf_models import write_hf_model
from tests.support.routed import Replayed, choices
from tests.support.tiny_policy import Job, TinySource, launch_jobs, policy_setup, write_tiny_folder

pytestmark = [pytest.mark.distributed, pytest.mark.long]
STEPS = 3
# The balance loss sees the router's own scores and makes its gradient large, whatever is replayed.
ROUTER = RouterConfig(bias_update_rate=0.01, balance_coefficient=0.05)
LAYOUTS = {
    "recompute": ((0,), {}),
    "pp2": ((0, 1), {"pp": 2}),
    "pp2 recompute": ((2, 3), {"pp": 2}),
    "tp2": ((2, 3), {"tp": 2, "sp": True}),
    "ep2": ((0, 1), {"dp": 2, "ep": 2}),
    "cp2": ((2, 3), {"cp": 2, "ep": 2}),
    "pp2 vpp3": ((0, 1), {"pp": 2, "vpp": 3}),
    "tp2 pp2 ep2": ((0, 1, 2, 3), {"tp": 2, "sp": True, "pp": 2, "ep": 2}),
}


def routed(worker, setup, change):
    """Return choices for all steps: the present model's own, changed."""
    worker.setup(setup)
    own = [choices(worker, step) for step in range(STEPS)]
    return {step: [change(pack) for pack in packs] for step, packs in enumerate(own)}


def shuffled(routed_TLK):
    """Return the same choices, named in another order."""
    return np.random.default_rng(0).permuted(routed_TLK, axis=-1)


def unknown(routed_TLK):
    return np.full_like(routed_TLK, -1)


def others(routed_TLK):
    """Return the neighbours of what was chosen, but for every seventh token: the router chooses there."""
    moved = (routed_TLK + 1) % 8
    moved[::7] = -1
    return moved


def curve(worker, setup, source):
    worker.setup(setup)
    scores = worker.logprobs(source, 0)
    results = [worker.train_step(source, step) for step in range(STEPS)]
    return scores, [(r.loss, r.grad_norm) for r in results], [r.metrics for r in results]


def alone(worker, setup):
    """Return the curves without replay, and with each kind of choices; and what wrong choices are refused with."""
    kinds = {"own": shuffled, "unknown": unknown, "others": others}
    sources = {name: Replayed(routed(worker, setup, change)) for name, change in kinds.items()}
    curves = {"none": curve(worker, setup, TinySource())}
    curves |= {name: curve(worker, setup, source) for name, source in sources.items()}
    good = sources["own"].routed[0]
    experts = good[0].copy()
    experts[3, 1] = experts[3, 1, 0]
    wrong = {
        "another shape than the model makes": good[0][:, 1:],
        "can't have made.*token 3": experts,
        "8 in each layer": np.where(good[0] == good[0].max(), 8, good[0]),
    }
    for text, array in wrong.items():
        with pytest.raises(TrainingError, match=text):
            worker.logprobs(Replayed({0: [array, *good[1:]]}), 0)
    return curves, router_gradient(worker, setup, sources["others"]), sources


def router_gradient(worker, setup, source):
    """Return the largest change of a router's weight by a step whose only loss is the stage's own."""
    own = replace(setup.training, router=RouterConfig())
    worker.setup(replace(setup, training=own))
    before = {n: t.clone() for n, t in worker.weight_tensors() if n.endswith("gate.weight")}
    worker.train_step(source, 0)
    return {n: float((t - before[n]).abs().max()) for n, t in worker.weight_tensors() if n in before}


def dense(worker, setup):
    worker.setup(setup)
    routed_TLK = [np.zeros((pack.num_tokens, 1, 2), np.int16) for pack in TinySource().packs(0)]
    with pytest.raises(TrainingError, match="a model without experts has no choices to replay"):
        worker.logprobs(Replayed({0: routed_TLK}), 0)


def replayed(worker, argument):
    return curve(worker, *argument)


@pytest.fixture(scope="module", params=["qwen3_moe", "nemotron_h"])
def on_one_rank(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    hf = str(write_hf_model(root / "start", request.param))
    jobs = [
        Job("alone", (0,), alone, policy_setup(hf, router=ROUTER)),
        Job("dense", (0,), dense, policy_setup(write_tiny_folder(root / "dense"))),
    ]
    return request.param, hf, launch_jobs(jobs, world_size=1)["alone"][0]


def test_choices_that_agree_change_no_bit_and_others_count(on_one_rank):
    _, _, (curves, gradient, _) = on_one_rank
    scores, losses, metrics = curves["none"]
    for kind, share in (("own", 1.0), ("unknown", None)):
        for ours, theirs in zip(curves[kind][0], scores, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        # The choices are those of the first step's weights.
        assert curves[kind][1][0] == losses[0]
        assert curves[kind][2][0].get("router_replay_share") == share
    assert curves["unknown"][1] == losses
    assert curves["own"][2][0]["router_replay_disagreement"] == 0
    assert max(np.abs(a - b).max() for a, b in zip(curves["others"][0], scores, strict=True)) > 1e-3
    told = curves["others"][2][0]
    assert 0.9 < told["router_replay_disagreement"] < 1  # all of the first layer, which changes the others' inputs
    assert 6 / 7 - 0.02 < told["router_replay_share"] < 6 / 7
    assert "router_replay_share" not in metrics[0]
    assert gradient
    assert all(change > 1e-6 for change in gradient.values())


def test_every_layout_replays_alike(on_one_rank):
    name, hf, (curves, _, sources) = on_one_rank
    scores, losses, metrics = curves["others"]
    jobs = []
    for layout, (ranks, sizes) in LAYOUTS.items():
        if name == "nemotron_h" and {"cp", "vpp"} & sizes.keys():
            continue
        setup = policy_setup(hf, router=ROUTER, **sizes)
        if layout.endswith("recompute"):
            setup = replace(setup, parallel=replace(setup.parallel, recompute="full"))
        jobs.append(Job(layout, ranks, replayed, (setup, sources["others"])))
    for layout, answers in launch_jobs(jobs, deadline_s=600).items():
        found = [pack for own, _, _ in answers if own is not None for pack in own]
        for ours, theirs in zip(found, scores, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=layout)
        for _, numbers, told in answers:
            np.testing.assert_allclose(numbers, losses, rtol=2e-5, err_msg=layout)
            for ours, theirs in zip(told, metrics, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-4), layout
