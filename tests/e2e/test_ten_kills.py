"""The whole nano cascade, its driver killed ten times at random moments and started again, against an undisturbed run.

KILLS_REFERENCE=runs/nano takes a finished run of the same configuration as the undisturbed one; else it is run here.
KILLS_SHORT=1 kills a cascade of the same eight stages with few steps each.
KILLS_SEED=2 draws other moments, one in each tenth of the cascade, where every stage counts the same however many steps
it has; a pause of up to two seconds after the step puts them into checkpoints, evaluations and starts, too.
"""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from nemo_cascade.config.reading.provenance import config_diff, read_config
from tests.e2e.cascade_process import completed, kill, metrics_of, start_run, tail, wait_until_gone

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

KILLS = 10
DRAW = random.Random(int(os.environ.get("KILLS_SEED", "1")))
WHOLE_S = 5400.0
SHORT = [
    *(f"stages.{stage}.max_steps=6" for stage in ("sft1", "sft2", "reward_model")),
    *(f"stages.{stage}.optimizer.lr_warmup_steps=2" for stage in ("sft1", "sft2", "reward_model")),
    *(f"stages.{stage}.steps=4" for stage in ("rlhf", "if_rl", "math_rl", "code_rl", "swe_rl")),
    *(f"stages.{stage}.prompts_per_step=4" for stage in ("rlhf", "if_rl", "math_rl", "code_rl", "swe_rl")),
    *(f"stages.{stage}.checkpoint_every=2" for stage in ("sft1", "sft2", "reward_model")),
    *(f"stages.{stage}.checkpoint_every=2" for stage in ("rlhf", "if_rl", "math_rl", "code_rl", "swe_rl")),
    *(f"evaluation.suites.{suite}.num_prompts=8" for suite in ("chat", "instruction", "math", "code", "swe")),
    *(
        f"evaluation.suites.{suite}.num_prompts=8"
        for suite in ("chat_think", "math_no_think", "to_think", "to_no_think")
    ),
    "gate.on_regression=promote",
]


def overrides() -> list[str]:
    return ["cascade=nano", "logging.progress=false", *(SHORT if os.environ.get("KILLS_SHORT") else [])]


def steps_of(run: Path) -> dict[str, int]:
    """Count the steps that each stage has recorded; made again after a kill, they don't count twice."""
    return {path.parent.name: path.read_bytes().count(b"\n") for path in run.glob("stages/*/metrics.jsonl")}


def progress(run: Path, all_steps: dict[str, int]) -> float:
    """Count the stages that are trained, one that is begun by the share of its steps."""
    return sum(count / all_steps[stage] for stage, count in steps_of(run).items())


def place(run: Path) -> str:
    """Name the last stage and the last event of the ledger."""
    lines = (run / "ledger.jsonl").read_text().splitlines() if (run / "ledger.jsonl").is_file() else []
    if not lines:
        return "before the first record"
    record = json.loads(lines[-1])
    return f"{record.get('stage')} after {record['event']}"


def kill_at(process: subprocess.Popen[bytes], run: Path, moment: float, all_steps: dict[str, int], log: Path) -> str:
    """Kill the driver once its progress is so far, wait until all that it started is gone, say where that hit it."""
    end = time.monotonic() + WHOLE_S
    while progress(run, all_steps) < moment:
        assert process.poll() is None, f"the run ended before it could be killed:\n{tail(log)}"
        assert time.monotonic() < end, tail(log)
        time.sleep(0.02)
    time.sleep(2 * DRAW.random())
    assert process.poll() is None, f"the run ended before it could be killed:\n{tail(log)}"
    where = f"{progress(run, all_steps):.2f} stages, {place(run)}"
    begun = time.monotonic()
    family = kill(process)
    assert wait_until_gone(family) == []
    return f"{where}; its {len(family)} processes were gone after {time.monotonic() - begun:.1f} s"


def reference(runs: Path) -> Path:
    if given := os.environ.get("KILLS_REFERENCE"):
        return Path(given).resolve()
    return completed(runs, "whole", overrides(), WHOLE_S)


def test_ten_kills_change_nothing(tmp_path):
    whole, run, log = reference(tmp_path), tmp_path / "killed", tmp_path / "killed.log"
    all_steps = steps_of(whole)
    print(f"\nundisturbed: {sum(all_steps.values())} steps in {len(all_steps)} stages")
    for number in range(KILLS):
        # Each tenth ends early: a run that is over can't be killed.
        moment = len(all_steps) * (number + 0.8 * DRAW.random()) / KILLS
        where = kill_at(start_run(tmp_path, "killed", overrides()), run, moment, all_steps, log)
        print(f"kill {number + 1}: at {where}", flush=True)
    completed(tmp_path, "killed", overrides(), WHOLE_S)
    allowed = ("name:", "runs_dir:", "data_dir:", "logging.", "resume:")
    differences = [line for line in config_diff(read_config(whole), read_config(run)) if not line.startswith(allowed)]
    assert [line for line in differences if str(tmp_path) not in line] == [], "the reference has another configuration"
    assert (run / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert metrics_of(run) == metrics_of(whole)
    print("scores.json: identical bytes; metrics.jsonl: identical lines but for the timings")
