"""DPO on given pairs and a round of RPO from SmolLM2's real weights, on a CPU: the gap grows, and the models load.

SMOL_PREFERENCE_RUN=runs/smol_preference looks at a finished run instead of making one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import wilcoxon

from nemo_cascade.config.reading.provenance import read_config
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.pairs import build_pairs
from nemo_cascade.data.responses import open_responses
from tests.e2e.cascade_process import completed, metrics_of
from tests.support.hf_pairs import pair_gaps
from tests.support.run_scores import stage_folder

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(3600)]

GREEDY = Path(__file__).parents[1] / "support" / "vllm_greedy.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if given := os.environ.get("SMOL_PREFERENCE_RUN"):
        return Path(given).resolve()
    words = ["cascade=smol_preference", "logging.progress=false"]
    return completed(tmp_path_factory.mktemp("smol_preference"), "smol_preference", words, 3000)


@pytest.fixture(scope="module")
def start(run):
    (folder,) = (Path(read_config(run).data_dir) / "models").glob("smol-*-cascade1-*")
    return folder


def test_the_margin_against_the_reference_begins_at_zero_and_grows_on_the_rounds_own_pairs(run):
    lines = metrics_of(run)
    for stage in ("02-dpo", "03-rpo"):
        print(stage, [(line["margin"], line["logprob_chosen"], line["logprob_rejected"]) for line in lines[stage]])
        assert abs(lines[stage][0]["margin"]) < 1e-4
    # Each of DPO's steps has other pairs, so its margins are no curve; the round's steps have the same eight.
    assert lines["03-rpo"][-1]["margin"] > 0


def test_transformers_finds_the_gap_of_given_pairs_larger_behind_dpo(run, start, tmp_path):
    stage = read_config(run).stages["dpo"]
    store = build_pairs(stage.data, stage.seq_length, start, tmp_path, of="policy")
    items = range(0, len(store), 2)
    before, after = pair_gaps(start, store, items), pair_gaps(stage_folder(run, "dpo") / "hf", store, items)
    print(f"nats of {len(items)} pairs: {before.mean():.3f} before, {after.mean():.3f} behind")
    assert (after - before).mean() > 0
    assert wilcoxon(after, before, alternative="greater").pvalue < 0.05


def test_transformers_finds_the_gap_of_the_rounds_pairs_larger_behind_rpo(run):
    (folder,) = (path.parent for path in (stage_folder(run, "rpo") / "round").glob("*/stats.json"))
    store = open_responses(folder)
    parent, trained = (pair_gaps(stage_folder(run, name) / "hf", store, range(len(store))) for name in ("dpo", "rpo"))
    print(f"nats of {len(store)} pairs: {parent.mean():.3f} before, {trained.mean():.3f} behind")
    assert (trained - parent).mean() > 0


@pytest.mark.parametrize("stage", ["dpo", "rpo"])
def test_vllm_and_transformers_load_the_export_and_answer_alike(run, stage, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = stage_folder(run, stage) / "hf"
    tokenizer = load_tokenizer(folder)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.encode("".join(s.text for s in tokenizer.template.render(question, "no_think"))).tolist()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.generation_config.eos_token_id == tokenizer.end_id
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    place = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(GREEDY), str(folder), json.dumps(prompt), "24", str(tmp_path / "answer.json")]
    done = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "answer.json").read_text()) == answer, tokenizer.decode(answer)
