"""The nano models with experts and state spaces through SFT and GRPO, and back into transformers."""

import json
import math

import numpy as np
import pytest
import torch

from tests.e2e.cascade_process import MICRO, completed, metrics_of
from tests.support.paired_scores import above, scores_of

pytestmark = [pytest.mark.long, pytest.mark.e2e, pytest.mark.timeout(1800)]

MODELS = {
    "nano_moe": ["model=nano_moe", "parallel=ep2"],
    "nano_hybrid": ["model=nano_hybrid", "parallel=dp2"],
}
BALANCE = ["stages.sft1.router.balance_coefficient=1e-4", "stages.sft2.router.balance_coefficient=1e-4"]
# SFT and math RL of the nano cascade at their full size.
SUMS = [
    "cascade=nano",
    *(f"~stages.{stage}" for stage in ("reward_model", "rlhf", "if_rl", "code_rl", "swe_rl")),
    *(f"~evaluation.suites.{suite}" for suite in ("chat", "code", "swe", "chat_think", "to_think", "to_no_think")),
    "stages.sft1.promise={improve: [math], hold: []}",
    "stages.sft2.promise={improve: [], hold: []}",
    "stages.math_rl.promise={improve: [math], hold: []}",
    "stages.math_rl.router_replay.enabled=true",
    *BALANCE,
]


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    runs = tmp_path_factory.mktemp(request.param)
    overrides = [setting for setting in MICRO if not setting.startswith("parallel=")]
    replay = ["stages.math_rl.router_replay.enabled=true", "stages.math_rl.router_replay.measure_every=2"]
    return request.param, completed(runs, request.param, [*overrides, *MODELS[request.param], *BALANCE, *replay], 1500)


def events(folder, event):
    records = map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())
    return {record["stage"]: record["details"] for record in records if record["event"] == event}


def test_every_stage_trains_and_tells_the_load_of_the_experts(run):
    _, folder = run
    for stage, lines in metrics_of(folder).items():
        for line in lines:
            assert line["skipped"] == 0
            assert math.isfinite(line["loss"])
            assert len(line["expert_load"]) == 16
            assert line["expert_load_max"] >= 1 >= line["expert_load_min"] >= 0
            assert ("router_balance_loss" in line) == ("sft" in stage)


def test_the_engines_experts_were_replayed(run):
    _, folder = run
    (lines,) = (lines for stage, lines in metrics_of(folder).items() if stage.endswith("math_rl"))
    for line in lines:
        assert 0.9 < line["router_replay_share"] < 1  # all but the last token of a rollout
        assert line["router_replay_disagreement"] < 0.01
        assert line["logprob_difference_max"] < 1e-3
        assert ("logprob_difference_mean_unreplayed" in line) == (line["step"] % 2 == 1)  # steps count from 1 here


def test_the_engines_held_and_computed_what_was_trained(run):
    _, folder = run
    proofs = events(folder, "weights_proven")
    assert "math_rl" in proofs
    for proof in proofs.values():
        assert proof["weights_proven"] > 50
        assert 0 <= proof["agreement"]["engines"]["max"] < 1e-3


def test_reinforcement_froze_the_routers_and_moved_their_biases(run):
    from safetensors.torch import load_file

    name, folder = run
    (before,), (after,) = (list(folder.glob(f"stages/*-{stage}/hf/model.safetensors")) for stage in ("sft2", "math_rl"))
    old, new = load_file(before), load_file(after)
    gates = [key for key in old if key.endswith(("mlp.gate.weight", "mixer.gate.weight"))]
    biases = [key for key in old if key.endswith("e_score_correction_bias")]
    assert len(gates) == 2
    assert all(torch.equal(old[key], new[key]) for key in gates)
    assert len(biases) == (2 if name == "nano_hybrid" else 0)
    assert not any(torch.equal(old[key], new[key]) for key in biases)
    experts = [key for key in old if ".experts." in key]
    assert any(not torch.equal(old[key], new[key]) for key in experts)


def test_transformers_reads_what_was_exported(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, folder = run
    (hf,) = folder.glob("stages/*-math_rl/hf")
    model, notes = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(hf)
    ids = tokenizer("2 + 3 =", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_math_rl_lifts_held_out_sums_and_the_report_shows_the_experts_load(tmp_path, model, seed):
    run = completed(tmp_path, "sums", [*SUMS, *MODELS[model], f"seed={seed}"], 1500)
    before, after = (scores_of(run, stage, "math") for stage in ("sft2", "math_rl"))
    assert above(after, before), (before.mean(), after.mean())
    assert "Load of the experts" in (run / "report.html").read_text()
