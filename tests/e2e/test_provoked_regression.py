"""A stage with a far too high learning rate, on the real stack: caught by its gate, rolled back, and told."""

from __future__ import annotations

import json

import pytest

from nemo_cascade.cascade.ledger import read_ledger
from tests.e2e.cascade_process import finish, start, tail

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# SFT teaches polite replies, which takes a hundred steps; the next stage forgets them at once; RL goes on from SFT.
PROVOKED = [
    "+evaluation.suites.chat={path: '${data_dir}/nano/preference_test.jsonl', verifier: nano_quality, "
    "num_prompts: 40, mode: no_think, sampling: {max_tokens: 32}}",
    "stages.sft1.data.sources=[{path: '${data_dir}/nano/preference_sft.jsonl'}]",
    "stages.sft1.max_steps=120",
    "stages.sft1.checkpoint_every=120",
    "stages.sft1.promise={improve: [chat], hold: []}",
    "stages.sft2.data.sources=[{path: '${data_dir}/nano/preference_sft.jsonl'}]",
    "stages.sft2.optimizer={lr: 0.5, lr_warmup_steps: 0, min_lr: 0.5}",
    "stages.sft2.promise={improve: [], hold: ['*']}",
    "stages.math_rl.steps=1",
    "gate.on_regression=rollback",
]


def test_a_far_too_high_learning_rate_is_rolled_back_and_the_cascade_goes_on_from_the_parent(tmp_path):
    log = tmp_path / "provoked.log"
    assert finish(start(tmp_path, "provoked", *PROVOKED), log) == 0, tail(log)
    run = tmp_path / "provoked"
    scores = json.loads((run / "scores.json").read_text())
    assert scores["sft2"]["chat"]["score"] < scores["sft1"]["chat"]["score"] - 0.2, scores
    records = read_ledger(run / "ledger.jsonl")
    decided = {r.stage: r.details for r in records if r.event == "decided"}
    assert decided["sft1"]["outcome"] == "promote"
    assert decided["sft2"]["outcome"] == "rollback"
    assert decided["sft2"]["reason"].startswith("chat fell by more than 0.02, significantly")
    started = {r.stage: r.details for r in records if r.event == "stage_started"}
    trained = {r.stage: r.details["weights"] for r in records if r.event == "trained"}
    assert (started["math_rl"]["parent"], started["math_rl"]["weights"]) == ("sft1", trained["sft1"])
    page = (run / "report.html").read_text()
    for told in ("rolled back", "chat fell by more than 0.02", "rollback"):
        assert told in page
