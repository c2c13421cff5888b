"""bf16 in trainer and engine: a GRPO step behind a proof that bf16 can pass; nano, and SmolLM2 with real weights."""

import pytest

from tests.e2e.cascade_process import MICRO, completed, events, metrics_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(400)]

BF16 = ["precision=bf16", "rollout.dtype=bf16", "stages.math_rl.steps=1", "evaluation.evaluate_start=false"]
NANO = [
    *(word for word in MICRO if not word.startswith(("stages.sft", "stages.math_rl.checkpoint_every"))),
    *("~stages.sft1", "~stages.sft2", *BF16),
]
SMOL = [
    "cascade=smol",
    *BF16,
    "~stages.sft",
    "rollout.max_model_len=256",
    "stages.math_rl.seq_length=256",
    "stages.math_rl.prompts_per_step=1",
    "stages.math_rl.num_generations=2",
    "stages.math_rl.sampling.max_tokens=16",
    "evaluation.suites.math.num_prompts=1",
    "evaluation.suites.math.sampling.max_tokens=8",
    "evaluation.suites.instruction.num_prompts=1",
    "evaluation.suites.instruction.sampling.max_tokens=8",
    "logging.progress=false",
]


@pytest.mark.parametrize(
    ("words", "tensors"),
    [pytest.param(NANO, 20, id="nano"), pytest.param(SMOL, 200, id="smol")],
)
def test_a_grpo_step_in_bf16_is_proven_and_made(tmp_path, words, tensors):
    run = completed(tmp_path, "bf16", words, 350)
    proofs = events(run, "weights_proven")
    assert proofs
    for proof in proofs:
        assert proof["weights_proven"] > tensors
        engines, floor = proof["agreement"]["engines"], proof["agreement"]["floor"]
        assert 0 < engines["mean"] <= max(0.1, 3 * floor["mean"])
        assert 0.001 < floor["mean"] < 0.2
    (line,) = metrics_of(run)["01-math_rl"]
    assert line["skipped"] == 0
    assert line["logprob_difference_mean"] < 0.2
