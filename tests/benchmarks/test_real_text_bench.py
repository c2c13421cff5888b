"""Real text from end to end: prepared, blended, packed, SmolLM2's real weights trained on it for 50 steps."""

import json
import time

import numpy as np
import pytest

from tests.e2e.cascade_process import finish, start_run, tail

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]


def test_smollm2_learns_real_text_in_fifty_steps(tmp_path):
    began = time.monotonic()
    log = tmp_path / "real.log"
    assert finish(start_run(tmp_path, "real", ["cascade=real_text", "logging.progress=false"]), log, 1100) == 0, tail(
        log
    )
    written = (tmp_path / "real" / "stages" / "01-sft" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    losses = np.asarray([line["loss"] for line in lines])
    speed = np.median([line["tokens_per_s"] for line in lines])
    score = json.loads((tmp_path / "real" / "scores.json").read_text())["sft"]["code"]
    tens = " ".join(f"{mean:.3f}" for mean in losses.reshape(5, 10).mean(axis=1))
    print(f"\nreal text, SmolLM2-135M, {len(losses)} steps of 2 x 256 tokens: mean loss of each ten steps {tens}")
    print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; {speed:.0f} trained tokens/s (median step)")
    print(f"HumanEval {score['score']} of {score['n']} problems; {time.monotonic() - began:.0f} s in all")
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()
    page = (tmp_path / "real" / "report.html").read_text()
    assert ">Loss" in page, "its curve is on the page"
