"""A nano is trained, pruned by the command, and learns back what it lost: by its teacher's logits, and by labels."""

import itertools
import subprocess
import sys

import pytest

from nemo_cascade.models.hf_config import read_architecture
from tests.e2e.cascade_process import completed
from tests.support.paired_scores import lines_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

ONLY_SFT = [
    "cascade=nano_distill",
    "~stages.chat_rl",
    "~stages.mopd",
    "~evaluation.suites.chat",
    "~evaluation.suites.math",
    "stages.sft.promise={improve: [], hold: []}",
    "logging.progress=false",
]
SETS, HELD_OUT = ("preference", "at_once"), 300


def program(*arguments):
    done = subprocess.run([sys.executable, "-m", "nemo_cascade", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def data_of(tmp_path):
    """Hold some rows of each set out; return what a run is told of them."""
    data = tmp_path.parent / "data"
    program("prepare", *ONLY_SFT, f"data_dir={data}")
    held = tmp_path / "held.jsonl"
    with held.open("w") as out:
        for name in SETS:
            rows = (data / "nano" / f"{name}_sft.jsonl").read_text().splitlines(keepends=True)
            (tmp_path / f"{name}.jsonl").write_text("".join(rows[:-HELD_OUT]))
            out.writelines(rows[-HELD_OUT:])
    sources = ", ".join(f"{{path: '{tmp_path}/{name}.jsonl'}}" for name in SETS)
    return held, [f"stages.sft.data.sources=[{sources}]", f"stages.sft.validation={{path: '{held}', every: 10}}"]


def run_of(tmp_path, name, *overrides):
    return completed(tmp_path, name, [*ONLY_SFT, *overrides], 900)


def held_out_losses(run):
    return [line["validation_loss"] for line in lines_of(run, "sft") if line.get("validation_loss") is not None]


def test_a_pruned_model_learns_back_by_its_teachers_logits_faster_than_by_labels(tmp_path):
    held, data = data_of(tmp_path)
    whole = run_of(tmp_path, "whole", *data, "model.architecture.num_hidden_layers=4")
    (teacher,) = whole.glob("stages/*-sft/hf")
    pruned = tmp_path / "pruned"
    program("prune", str(teacher), str(pruned), "--data", str(held), "--samples", "64", "--layers", "3",
            "--ffn-width", "192")  # fmt: skip
    arch = read_architecture(pruned)
    assert (len(arch.layers), arch.dense.width) == (3, 192)
    start = ["model.source=hf", f"model.path={pruned}", "~model.architecture", "stages.sft.max_steps=60"]
    short = [*data, *start, "stages.sft.optimizer.lr=1.0e-3", "stages.sft.optimizer.lr_warmup_steps=5"]
    by_labels = held_out_losses(run_of(tmp_path, "labels", *short))
    by_logits = held_out_losses(run_of(tmp_path, "logits", *short, f"stages.sft.teacher={{model: '{teacher}'}}"))
    divergence = [line["forward_kl"] for line in lines_of(tmp_path / "logits", "sft")]
    assert divergence[-1] < 0.5 * divergence[0], divergence
    told = list(itertools.zip_longest(by_labels, by_logits))
    assert len(told) == 6
    assert all(logits < labels for labels, logits in told), told
