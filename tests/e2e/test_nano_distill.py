"""The nano twin of multi-domain on-policy distillation, through Megatron, vLLM and the ledger."""

import pytest
from scipy.stats import mannwhitneyu

from nemo_cascade.cascade.ledger import read_ledger
from tests.e2e.cascade_process import completed
from tests.support.paired_scores import above, lines_of, not_below, scores_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]


def run_of(tmp_path, *overrides):
    return completed(tmp_path, "nano_distill", ["cascade=nano_distill", *overrides], 1700)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_reinforcement_learning_forgot_comes_back_and_what_it_taught_stays(tmp_path, seed):
    run = run_of(tmp_path, f"seed={seed}")
    of = {(s, d): scores_of(run, s, d) for s in ("sft", "chat_rl", "mopd") for d in ("math", "chat")}
    told = {key: float(value.mean()) for key, value in of.items()}
    assert above(of["sft", "math"], of["chat_rl", "math"]), told
    assert above(of["chat_rl", "chat"], of["sft", "chat"]), told
    # More than half of what was lost, and of what was learned, is there in the end.
    assert above(of["mopd", "math"], (of["sft", "math"] + of["chat_rl", "math"]) / 2), told
    assert above(of["mopd", "chat"], (of["sft", "chat"] + of["chat_rl", "chat"]) / 2), told
    assert not_below(of["mopd", "chat"], of["chat_rl", "chat"], 0.05), told
    decided = {r.stage: r.details["outcome"] for r in read_ledger(run / "ledger.jsonl") if r.event == "decided"}
    assert decided == {"sft": "promote", "chat_rl": "promote", "mopd": "promote"}
    lines = lines_of(run, "mopd")
    divergence = [line["reverse_kl_by_domain"]["math"] for line in lines]
    # It falls within the first steps, and is as noisy as a step's few prompts.
    early, late = divergence[: len(lines) // 12], divergence[-len(lines) // 3 :]
    assert mannwhitneyu(late, early, alternative="less").pvalue < 0.05, divergence
    assert all(line["gate_share"] > 0.99 and set(line["teacher_seconds"]) == {"math", "chat"} for line in lines)


def test_a_teacher_that_is_the_student_teaches_nothing(tmp_path):
    alike = ["~stages.chat_rl", "stages.mopd.teachers={math: sft, chat: sft}", "gate.on_regression=promote"]
    short = ["stages.sft.max_steps=60", "stages.mopd.steps=4", "evaluation.suites.math.num_prompts=8"]
    none = [f"stages.{stage}.promise.{what}=[]" for stage in ("sft", "mopd") for what in ("improve", "hold")]
    first = lines_of(run_of(tmp_path, *alike, *short, *none), "mopd")[0]
    assert abs(first["loss"]) < 1e-5
    assert first["grad_norm"] < 1e-4
    assert all(abs(value) < 1e-4 for value in first["reverse_kl_by_domain"].values())
