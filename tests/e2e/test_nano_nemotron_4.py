"""The nano twin of Nemotron-4's alignment: the reward model knows its attributes, DPO and RPO raise the true score."""

import json

import pytest

from tests.e2e.cascade_process import completed, metrics_of
from tests.support.run_scores import gate_row, outcomes, stage_folder

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(3600)]

STAGES = ["reward_model", "code_sft", "general_sft", "dpo", "rpo_1", "rpo_2", "rpo_3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(runs):
    return completed(runs, "twin", ["cascade=nano_nemotron_4"], 3000)


def test_every_stage_is_promoted_and_every_round_makes_pairs(run):
    assert outcomes(run) == dict.fromkeys(STAGES, "promote")
    lines = metrics_of(run)
    for number, stage in enumerate(STAGES[3:], 4):
        steps = lines[f"{number:02}-{stage}"]
        assert steps[-1]["accuracy"] > 0.5
        assert steps[-1]["margin"] > steps[0]["margin"]
        assert ("reward_gap" in steps[0]) == stage.startswith("rpo")


def test_the_reward_models_attributes_correlate_with_the_rated_ones_on_held_out_rows(run):
    held_out = json.loads((stage_folder(run, "reward_model") / "preference.json").read_text())
    assert set(held_out["correlations"]) == {"sentence", "linked", "distinct", "ended"}
    assert min(held_out["correlations"].values()) >= 0.8, held_out["correlations"]


def test_dpo_and_the_first_round_of_rpo_raise_the_true_score_and_no_round_lowers_it(run):
    rows = {stage: gate_row(run, stage, "chat") for stage in STAGES[3:]}
    told = {stage: (row["difference"], row["low"]) for stage, row in rows.items()}
    for stage in ("dpo", "rpo_1"):
        assert rows[stage]["verdict"] == "improved", told
    for row in rows.values():
        assert not (row["significant"] and row["difference"] < 0), told


def test_without_cross_entropy_dpo_makes_both_responses_less_likely(runs, run):
    """Arxiv 2406.11704, section 3.3.2, on the same pairs from the same start, with a learning rate that shows it."""
    found = {}
    for name, weight in (("plain", 0.0), ("kept", 1.0)):
        fork = ["stages.dpo.optimizer.lr=1e-3", "stages.dpo.promise={improve: [], hold: []}"]
        fork.append(f"stages.dpo.loss.sft_weight={weight}")
        left_out = [f"~stages.{stage}" for stage in STAGES[4:]]
        anew = completed(runs, name, [*fork, *left_out], 600, verb=["fork", str(run), "--at", "dpo"])
        lines = metrics_of(anew)["04-dpo"]
        found[name] = [
            sum(line[key] for line in lines[-5:]) / 5 - sum(line[key] for line in lines[:2]) / 2
            for key in ("logprob_chosen", "logprob_rejected")
        ]
    assert max(found["plain"]) < 0, found
    assert found["kept"][0] > found["plain"][0], found
    assert found["kept"][0] > 0, found
