"""Seconds of a DPO step on SmolLM2's real weights: ours through its own stage, and TRL's DPOTrainer on the same pairs.

Both train fp32 on the same four pairs in every step, with as many threads, AdamW of the same settings, and reference
log-probabilities that were computed before the first step. So that it is the same work, the losses of every step have
to agree. TRL pads the responses of a micro-batch to one length, so it gets the better of two micro-batches.

The fastest step of each is compared: on a machine that does other things, too, it is the least disturbed one.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.reading.provenance import read_config
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.pairs import build_pairs
from nemo_cascade.nano.smol_stages import smol_stages_rows
from tests.e2e.cascade_process import finish, start_run, tail
from tests.support.run_scores import stage_folder

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

PAIRS, STEPS, THREADS, LR, BETA = 4, 4, 2, 1e-5, 0.1
MICRO = (1, 4)
AIM = 1.5
PEER = Path(__file__).parents[1] / "support" / "trl_dpo.py"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The lines of our stage, its pairs and its start."""
    runs = tmp_path_factory.mktemp("runs")
    rows = runs / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in smol_stages_rows(0)["pairs"][:PAIRS]))
    overrides = [
        "cascade=smol_preference",
        *("~stages.reward_model", "~stages.rpo", "~evaluation.suites.instruction", "logging.progress=false"),
        f"stages.dpo.data.path={rows}",
        f"stages.dpo.global_batch_size={PAIRS}",
        *(f"stages.dpo.{name}={STEPS}" for name in ("epochs", "max_steps")),
        f"stages.dpo.optimizer.lr={LR}",
        f"stages.dpo.loss.beta={BETA}",
        f"cluster.policy_threads={THREADS}",
    ]
    log = runs / "dpo.log"
    assert finish(start_run(runs, "dpo", overrides), log, timeout_s=1500) == 0, tail(log)
    config = read_config(runs / "dpo")
    (start,) = (Path(config.data_dir) / "models").glob("smol-*-cascade1-*")
    stage = config.stages["dpo"]
    store = build_pairs(stage.data, stage.seq_length, start, runs / "store", of="policy")
    lines = (stage_folder(runs / "dpo", "dpo") / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], store, start, stage


def cut(document):
    """Return a document's prompt and response, token ids."""
    trained = np.flatnonzero(document.loss_mask > 0)  # at the token before each trained one
    return document.input_ids[: trained[0] + 1].tolist(), document.input_ids[trained[0] + 1 :].tolist()


def peers(job):
    """Have TRL train, in a process of its own; without the extra `bench` on PYTHONPATH this fails."""
    place = {"OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [sys.executable, str(PEER), json.dumps(job)], env={**os.environ, **place}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_of_dpo_beside_trls(ours, tmp_path):
    lines, store, start, stage = ours
    tokenizer = load_tokenizer(start)
    sides = [[cut(document) for document in store.documents(item)] for item in range(len(store))]
    tokens = [[prompt, chosen, rejected] for (prompt, chosen), (_, rejected) in sides]
    names = ("prompt", "chosen", "rejected")
    job = {
        "model": str(start),
        "end": tokenizer.template.turn_end,
        "pairs": [dict(zip(names, map(tokenizer.decode, pair), strict=True)) for pair in tokens],
        **{"steps": STEPS, "threads": THREADS, "lr": LR, "beta": BETA, "adam_beta2": stage.optimizer.adam_beta2},
        "folder": str(tmp_path),
    }
    losses, fastest = [line["loss"] for line in lines], min(line["seconds"]["train"] for line in lines[1:])
    best = math.inf
    print(f"\nours: {fastest:.2f} s a step of {lines[0]['total_tokens']:.0f} tokens, losses {losses}")
    for micro in MICRO:
        found = peers({**job, "micro": micro})
        best = min(best, *found["seconds"][1:])
        print(f"TRL, micro-batches of {micro} pairs: {min(found['seconds'][1:]):.2f} s, losses {found['losses']}")
        assert sorted(found["tokens"]) == sorted(tokens)
        np.testing.assert_allclose(found["losses"], losses, rtol=5e-3)
    print(f"TRL / ours: {best / fastest:.2f} (aim {AIM})")
    assert best / fastest > 1.0
