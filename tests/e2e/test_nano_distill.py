"""The nano twin of multi-domain on-policy distillation, through Megatron, vLLM and the ledger."""

from __future__ import annotations

import json

import pytest

from nemo_cascade.cascade.ledger import read_ledger
from tests.e2e.cascade_process import finish, start_run, tail

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]


def test_what_reinforcement_learning_forgot_comes_back_and_what_it_taught_stays(tmp_path):
    log = tmp_path / "nano_distill.log"
    assert finish(start_run(tmp_path, "nano_distill", ["cascade=nano_distill"]), log, timeout_s=1700) == 0, tail(log)
    run = tmp_path / "nano_distill"
    scores = {
        s: {d: e["score"] for d, e in of.items()} for s, of in json.loads((run / "scores.json").read_text()).items()
    }
    sft, forgot, distilled = scores["sft"], scores["chat_rl"], scores["mopd"]
    assert forgot["math"] < sft["math"] - 0.1, scores
    assert distilled["math"] > forgot["math"] + 0.5 * (sft["math"] - forgot["math"]), scores
    assert distilled["chat"] > sft["chat"] + 0.5 * (forgot["chat"] - sft["chat"]), scores
    decided = {r.stage: r.details["outcome"] for r in read_ledger(run / "ledger.jsonl") if r.event == "decided"}
    assert decided == {"sft": "promote", "chat_rl": "promote", "mopd": "promote"}
    lines = [json.loads(line) for line in (run / "stages" / "03-mopd" / "metrics.jsonl").read_text().splitlines()]
    kl = [line["reverse_kl_by_domain"]["math"] for line in lines]
    assert sum(kl[-5:]) < 0.5 * sum(kl[:5]), kl
    assert all(line["gate_share"] > 0.99 and set(line["teacher_seconds"]) == {"math", "chat"} for line in lines)
