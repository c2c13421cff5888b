"""SmolLM2's real weights through the whole cascade: a few steps, then the exported folder answers elsewhere."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cascade_process import finish, metrics_of, start_run, tail

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FEW = [
    "cascade=smol",
    "stages.sft.seq_length=256",
    "stages.sft.global_batch_size=1",
    "stages.sft.max_steps=4",
    "rollout.max_model_len=256",
    "stages.math_rl.seq_length=256",
    "stages.math_rl.steps=1",
    "stages.math_rl.prompts_per_step=2",
    "stages.math_rl.num_generations=2",
    "stages.math_rl.sampling.max_tokens=24",
    "evaluation.evaluate_start=false",
    "evaluation.suites.math.num_prompts=2",
    "evaluation.suites.math.sampling.max_tokens=24",
    "evaluation.suites.instruction.num_prompts=2",
    "evaluation.suites.instruction.sampling.max_tokens=24",
    "logging.progress=false",
]


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    runs = tmp_path_factory.mktemp("smol")
    log = runs / "smol.log"
    assert finish(start_run(runs, "smol", FEW), log, timeout_s=500) == 0, tail(log)
    return runs / "smol"


def test_loss_falls_and_trainer_agrees_with_engine(smol):
    lines = metrics_of(smol)
    losses = [line["loss"] for line in lines["01-sft"]]
    assert losses[-1] < losses[0]
    assert lines["02-math_rl"][0]["logprob_difference_max"] < 1e-3
    ledger = [json.loads(line) for line in (smol / "ledger.jsonl").read_text().splitlines()]
    proofs = [r["details"]["agreement"]["engines"]["max"] for r in ledger if r["event"] == "weights_proven"]
    assert proofs
    assert max(proofs) < 1e-3


def test_exported_folder_loads_in_transformers_and_answers(smol):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smol / "stages" / "02-math_rl" / "hf"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert sum(c.isalpha() or c.isspace() for c in text) > 0.7 * len(text) > 0, text  # words, not noise
