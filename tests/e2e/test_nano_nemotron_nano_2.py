"""The nano twin of Nemotron Nano 2's post-training: the merge sweep finds a model that its parents don't surpass."""

import json

import pytest

from nemo_cascade.cascade.ledger import read_ledger
from tests.e2e.cascade_process import completed
from tests.support.run_scores import gate_row, mean_difference, outcomes, stage_folder

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(3600)]

STAGES = ["sft_1", "sft_2", "sft_3", "if_rl", "dpo", "reward_model", "rlhf", "merge"]
DOMAINS = ["chat", "instruction", "math"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return completed(tmp_path_factory.mktemp("runs"), "twin", ["cascade=nano_nemotron_nano_2"], 3000)


def test_every_stage_is_promoted_and_keeps_its_promise(run):
    assert outcomes(run) == dict.fromkeys(STAGES, "promote")
    for stage, domain in (("if_rl", "instruction"), ("dpo", "math"), ("rlhf", "chat")):
        assert gate_row(run, stage, domain)["verdict"] == "improved"


def test_the_sweep_takes_the_best_ratio_and_removes_what_it_made(run):
    (scored,) = (r.details for r in read_ledger(run / "ledger.jsonl") if r.event == "merges_scored")
    (merged,) = (r.details for r in read_ledger(run / "ledger.jsonl") if r.event == "merged")
    assert set(scored["merits"]) == {"0.5", "0.7", "0.8", "0.9"}
    assert merged["ratio"] == scored["best"] == float(max(scored["merits"], key=scored["merits"].get))
    sweep = stage_folder(run, "merge") / "sweep"
    assert len(list(sweep.glob("*/selection.json"))) == 4
    assert not list(sweep.glob("*/hf"))
    assert list((stage_folder(run, "merge") / "hf").glob("*.safetensors"))


def test_the_merge_is_better_than_its_worse_parent_and_not_worse_than_its_better_one(run):
    scores = {
        s: sum(of[d]["score"] for d in DOMAINS) for s, of in json.loads((run / "scores.json").read_text()).items()
    }
    worse, better = sorted(("dpo", "rlhf"), key=scores.__getitem__)
    gain, stderr = mean_difference(run, "merge", worse, DOMAINS)
    assert gain > 1.96 * stderr, (gain, stderr, scores)
    loss, stderr = mean_difference(run, "merge", better, DOMAINS)
    assert loss > -1.96 * stderr, (loss, stderr, scores)
