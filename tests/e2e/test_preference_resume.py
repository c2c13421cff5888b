"""A round of preference optimisation, killed while it samples, while it judges and while it trains: the same pairs."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.cascade_process import completed, events, kill, kill_when, metrics_of, start_run, tail, wait_until_gone
from tests.support.run_scores import stage_folder

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(3600)]

JUDGE = Path(__file__).parents[1] / "support" / "slow_judge.py"


def overrides(told):
    judged = f"{{kind: '{JUDGE}:score', told: '{told}', seconds: 0.05}}"
    return [
        "cascade=nano_nemotron_4",
        *(f"~stages.{stage}" for stage in ("code_sft", "dpo", "rpo_2", "rpo_3")),
        *(f"~evaluation.suites.{suite}" for suite in ("chat_think", "code")),
        "parallel=single",
        "gate.on_regression=promote",
        "logging.progress=false",
        "stages.reward_model.max_steps=4",
        "stages.reward_model.optimizer.lr_warmup_steps=1",
        "stages.reward_model.min_accuracy=0",
        "stages.general_sft.max_steps=12",
        "stages.general_sft.optimizer.lr_warmup_steps=2",
        "stages.general_sft.promise={improve: [], hold: []}",
        f"stages.rpo_1.sampled.tasks.chat.reward={judged}",
        "stages.rpo_1.sampled.prompts=24",
        "stages.rpo_1.sampled.prompts_per_batch=8",
        "stages.rpo_1.sampled.num_generations=4",
        "stages.rpo_1.sampled.pairs={least_gap: 0.1, least_chosen: null}",
        "stages.rpo_1.global_batch_size=4",
        "stages.rpo_1.checkpoint_every=2",
        "evaluation.suites.chat.num_prompts=12",
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def judged(told):
    return told.read_text().count("\n") if told.is_file() else 0


def kill_once(process, holds, log, timeout_s=900):
    """Kill the driver as soon as something holds; nothing that it started may outlive it."""
    end, held = time.monotonic() + timeout_s, False
    while not (held := holds()) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    family = kill(process) if process.poll() is None else []
    assert held, f"the run was never where it should be killed:\n{tail(log)}"
    assert family, "a driver with nothing below it wouldn't show what outlives it"
    assert wait_until_gone(family) == []


def test_a_round_that_is_killed_anywhere_has_the_same_pairs_metrics_and_scores(runs):
    told, log = runs / "told.txt", runs / "killed.log"
    whole, run = completed(runs, "whole", overrides(told), 1200), runs / "killed"
    told = runs / "told_again.txt"
    (due,) = (found for found in events(whole, "pairs_read") if "score_mean" in found)
    assert due["pairs"] >= 8

    batches = run / "stages" / "03-rpo_1" / "round"
    first = batches / "batch_000000.jsonl.gz"
    kill_once(start_run(runs, "killed", overrides(told)), first.is_file, log)  # the second batch is being sampled
    before, kept = judged(told), first.read_bytes()
    assert not (batches / "batch_000002.jsonl.gz").exists()
    kill_once(start_run(runs, "killed", overrides(told)), lambda: judged(told) > before + 3, log)
    assert first.read_bytes() == kept
    process = start_run(runs, "killed", overrides(told))
    assert wait_until_gone(kill_when(process, run / "stages" / "03-rpo_1" / "metrics.jsonl", 3, log, 900)) == []
    completed(runs, "killed", overrides(told), 1200)

    for batch in sorted((stage_folder(whole, "rpo_1") / "round").glob("batch_*")):
        assert (batches / batch.name).read_bytes() == batch.read_bytes(), batch.name
    assert [found for found in events(run, "pairs_read") if "score_mean" in found][-1] == due
    assert metrics_of(run) == metrics_of(whole)
    assert json.loads((run / "scores.json").read_text()) == json.loads((whole / "scores.json").read_text())
