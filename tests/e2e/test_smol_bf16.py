"""SmolLM2's real weights in bf16, in trainer and engine: one GRPO step behind a proof that bf16 can pass."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cascade_process import finish, metrics_of, start_run, tail

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ONE_STEP = [
    "cascade=smol",
    "precision=bf16",
    "rollout.dtype=bf16",
    "~stages.sft",
    "rollout.max_model_len=256",
    "stages.math_rl.seq_length=256",
    "stages.math_rl.steps=1",
    "stages.math_rl.prompts_per_step=1",
    "stages.math_rl.num_generations=2",
    "stages.math_rl.sampling.max_tokens=16",
    "evaluation.evaluate_start=false",
    "evaluation.suites.math.num_prompts=1",
    "evaluation.suites.math.sampling.max_tokens=8",
    "evaluation.suites.instruction.num_prompts=1",
    "evaluation.suites.instruction.sampling.max_tokens=8",
    "logging.progress=false",
]


def test_a_grpo_step_in_bf16_is_proven_and_made(tmp_path):
    log = tmp_path / "smol.log"
    assert finish(start_run(tmp_path, "smol", ONE_STEP), log, timeout_s=350) == 0, tail(log)
    ledger = [json.loads(line) for line in (tmp_path / "smol" / "ledger.jsonl").read_text().splitlines()]
    (proof,) = [r["details"] for r in ledger if r["event"] == "weights_proven"]
    assert proof["weights_proven"] > 200
    engines, floor = proof["agreement"]["engines"], proof["agreement"]["floor"]
    assert 0 < engines["mean"] <= max(0.1, 3 * floor["mean"])
    assert 0.01 < floor["mean"] < 0.2
    (line,) = metrics_of(tmp_path / "smol")["01-math_rl"]
    assert line["skipped"] == 0
    assert line["logprob_difference_mean"] < 0.2
