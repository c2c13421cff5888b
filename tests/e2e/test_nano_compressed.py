"""A nano is trained, pruned by the command, and learns back from the logits of the one that it was made of."""

from __future__ import annotations

import pytest

from nemo_cascade.cli import main as command
from nemo_cascade.models.hf_config import read_architecture
from tests.e2e.cascade_process import finish, start_run, tail
from tests.support.paired_scores import lines_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

ONLY_SFT = ["cascade=nano_distill", "~stages.chat_rl", "~stages.mopd", "stages.sft.promise={improve: [], hold: []}"]
QUIET = ["~evaluation.suites.chat", "evaluation.suites.math.num_prompts=8", "logging.progress=false"]
HELD_OUT = ["stages.sft.validation={path: '${data_dir}/nano/sft2.jsonl', every: 10}"]
RECOVER = ["stages.sft.max_steps=60", "stages.sft.optimizer={lr: 1.0e-3, lr_warmup_steps: 5}", "model.source=hf"]


def run_of(tmp_path, name, *overrides):
    process = start_run(tmp_path, name, [*ONLY_SFT, *QUIET, f"name={name}", *overrides])
    assert finish(process, tmp_path / f"{name}.log", timeout_s=900) == 0, tail(tmp_path / f"{name}.log")
    return tmp_path / name


def losses(run):
    return [line["validation_loss"] for line in lines_of(run, "sft") if line.get("validation_loss") is not None]
