"""Every stage kind makes a real step from SmolLM2's real weights on real prompts, on a CPU.

SMOL_STAGES_RUN=runs/smol_stages looks at a finished run instead of making one.
"""

import gzip
import json
import math
import os
from pathlib import Path

import pytest

from nemo_cascade.config.reading.provenance import read_config
from tests.e2e.cascade_process import completed, metrics_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

RL = ["rlhf", "if_rl", "math_rl", "code_rl", "swe_rl"]
STAGES = ["sft", "reward_model", *RL]
# No gradient may be zero. The verifiers' rewards have few values, and a group in which they are equal has no gradient;
# but such groups are drawn anew (dynamic sampling), and a run that finds no other in four rounds is refused.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if given := os.environ.get("SMOL_STAGES_RUN"):
        return Path(given).resolve()
    words = ["cascade=smol_stages", "logging.progress=false"]
    return completed(tmp_path_factory.mktemp("smol_stages"), "smol_stages", words, 3000)


@pytest.fixture(scope="module")
def lines(run):
    return {name.partition("-")[2]: found for name, found in metrics_of(run).items()}


def events(run, event):
    records = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    return {record["stage"]: record["details"] for record in records if record["event"] == event}


def test_every_stage_made_its_steps_with_finite_losses_and_gradients_that_are_not_zero(lines):
    assert list(lines) == STAGES
    for stage, steps in lines.items():
        for line in steps:
            print(stage, {key: line[key] for key in ("step", "loss", "grad_norm", "reward_mean") if key in line})
            assert line["skipped"] == 0, stage
            assert math.isfinite(line["loss"]), stage
            assert 0 < line["grad_norm"] < math.inf, stage


@pytest.mark.parametrize("stage", RL)
def test_real_rollouts_were_judged_and_trainer_and_engine_agree_on_them(lines, stage):
    for line in lines[stage]:
        assert line["verdict_errors"] == 0
        assert line["response_length_mean"] > 1
        assert line["logprob_difference_max"] < 1e-3


def test_weights_were_proven_equal_in_the_engine_in_every_rl_stage(run):
    proofs = events(run, "weights_proven")
    assert sorted(proofs) == sorted(RL)
    for proof in proofs.values():
        assert proof["bytes"] > 500e6
        assert proof["weights_proven"] > 200
        assert 0 <= proof["agreement"]["engines"]["max"] < 1e-3


def test_every_stage_changed_the_weights_and_left_a_checkpoint(run):
    trained, started = events(run, "trained"), events(run, "stage_started")
    assert sorted(trained) == sorted(STAGES)
    for stage in STAGES:
        assert trained[stage]["weights"] != started[stage]["weights"], stage
        (folder,) = run.glob(f"stages/*-{stage}")
        assert list(folder.glob("checkpoints/step_*/manifest.json")), stage


def test_all_domains_are_in_the_matrix(run):
    scores = json.loads((run / "scores.json").read_text())
    for stage in RL:
        assert sorted(scores[stage]) == ["chat", "code", "instruction", "math", "swe"]
        assert all(math.isfinite(cell["score"]) for cell in scores[stage].values())


def test_transformers_loads_the_model_that_the_engine_sampled_from(run):
    """SWE RL's first samples are likely to the model that code RL exported, and not to the one at the start."""
    with gzip.open(run / "stages" / "07-swe_rl" / "rollouts" / "step_000001.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    (start,) = (Path(read_config(run).data_dir) / "models").glob("smol-*-cascade1-*")
    exported = surprise(run / "stages" / "06-code_rl" / "hf", rows)
    at_start = surprise(start, rows)
    print(f"nats per sampled token: {exported:.3f}, by the model at the start {at_start:.3f}")
    assert exported < 0.5
    assert exported < at_start / 2


def test_the_exported_folder_answers_in_words_in_transformers(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run / "stages" / "07-swe_rl" / "hf"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert sum(c.isalpha() or c.isspace() for c in text) > 0.7 * len(text) > 0, text  # words, not noise


def surprise(folder, rows):
    """Return the mean negative log-prob per token of the responses by a model in transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    log_probs = []
    for row in rows:
        prompt, response = (
            tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "response")
        )
        with torch.no_grad():
            table = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        log_probs += table[range(len(prompt) - 1, len(prompt) + len(response) - 1), response].tolist()
    return -sum(log_probs) / len(log_probs)
