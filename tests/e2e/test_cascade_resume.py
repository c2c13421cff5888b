"""The whole cascade on the real stack, in miniature: undisturbed, and killed in its stages, with a bad checkpoint.

SFT, RL, and a kind of stage of a user's own.
"""

import json
from pathlib import Path

import pytest

from tests.e2e.cascade_process import MICRO, completed, kill_when, metrics_of, start_run, wait_until_gone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OWN_KIND = Path(__file__).parents[1] / "support" / "own_stage.py"
OVERRIDES = [
    *(override for override in MICRO if not override.startswith("stages.sft1.")),
    "~stages.sft1",
    f"+stages.brief={{kind: '{OWN_KIND}:Shortest', seq_length: 192, steps: 4, checkpoint_every: 2}}",
    "+stages.brief.optimizer={lr: 1.0e-3}",
    "+stages.brief.prompts={path: '${data_dir}/nano/math_train.jsonl', domain: math, reward: {kind: math}}",
    "+stages.brief.sampling={max_tokens: 12}",
    # Scores between the steps, which the engines give: what a resume must not be disturbed by.
    "stages.sft2.measure={suites: [math], every: 3, num_prompts: 4}",
    "stages.math_rl.measure={suites: [math, instruction], every: 2, num_prompts: 4}",
    "stages.math_rl.keep_best=reward_mean",
    "stages.math_rl.keep_checkpoints=1",
    # Batches lie drawn and untrained in a checkpoint.
    "stages.math_rl.max_staleness=1",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def overrides(runs):
    """Few enough prompts that the stage of RL comes into a second epoch, and filters what the first has shown."""
    sums = [(1000 + 37 * i, 2000 + 91 * i) for i in range(10)]
    rows = [{"messages": [{"role": "user", "content": f"Compute {a}+{b}."}], "answer": str(a + b)} for a, b in sums]
    path = runs / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = "stages.math_rl.prompt_filter={enabled: true, readmit_hard: 0.7}"
    return [*OVERRIDES, f"stages.math_rl.tasks.math.path={path}", "~stages.math_rl.tasks.at_once", rules]


@pytest.fixture(scope="module")
def undisturbed(runs, overrides):
    return completed(runs, "whole", overrides)


def test_run_folder_is_laid_out_and_complete(undisturbed):
    for name in ("config.yaml", "provenance.yaml", "ledger.jsonl", "report.html", "scores.json"):
        assert (undisturbed / name).stat().st_size > 0, name
    matrix = json.loads((undisturbed / "scores.json").read_text())
    assert list(matrix) == ["start", "sft2", "math_rl", "brief"]
    assert all(set(row) == {"math", "instruction"} for row in matrix.values())
    stage = undisturbed / "stages" / "02-math_rl"
    assert {name: len(lines) for name, lines in metrics_of(undisturbed).items()} == {
        "01-sft2": 8,
        "02-math_rl": 5,
        "03-brief": 4,
    }
    assert list((stage / "hf").glob("*.safetensors"))
    assert len(list((stage / "rollouts").glob("step_*.jsonl.gz"))) == 5
    for gate in undisturbed.glob("stages/*/gate.json"):
        assert json.loads(gate.read_text())["outcome"] == "promote"


def test_the_second_epoch_leaves_prompts_out(undisturbed):
    told = [(line["epoch"], line["prompt_filter"]) for line in metrics_of(undisturbed)["02-math_rl"]]
    assert [epoch for epoch, _ in told][:4] == [0, 0, 1, 1]
    assert told[0][1] == {"prompts": 10, "easy": 0, "hard": 0, "readmitted": 0}
    assert told[2][1]["hard"] > 0
    assert 4 <= told[2][1]["prompts"] < 10


def test_scores_between_the_steps_stand_in_the_lines_and_beside_them(undisturbed):
    lines = metrics_of(undisturbed)
    for stage, every in (("01-sft2", 3), ("02-math_rl", 2)):
        measured = [line["step"] for line in lines[stage] if "measured_mean" in line]
        assert measured == list(range(every, len(lines[stage]), every))
        files = sorted((undisturbed / "stages" / stage / "measured").glob("*.json"))
        assert [int(file.stem.removeprefix("step_")) for file in files] == measured
    assert all(0 <= line["measured_math"] <= 1 for line in lines["02-math_rl"] if "measured_math" in line)


def test_the_best_checkpoint_by_a_metric_stays_beside_the_newest(undisturbed):
    rewards = {line["step"]: line["reward_mean"] for line in metrics_of(undisturbed)["02-math_rl"]}
    due = {step: rewards[step] for step in (2, 4, 5)}
    best = max(due, key=lambda step: (due[step], -step))
    kept = {path.name for path in (undisturbed / "stages" / "02-math_rl" / "checkpoints").iterdir()}
    assert kept == {f"step_{best:06d}", "step_000005"}


def killed_in(runs, overrides, name, stage, lines):
    """Run until a stage has made so many steps, and kill the driver."""
    metrics, log = runs / name / "stages" / stage / "metrics.jsonl", runs / f"{name}.log"
    family = kill_when(start_run(runs, name, overrides), metrics, lines, log)
    assert family, "a driver with nothing below it wouldn't show what outlives it"
    assert wait_until_gone(family) == []


def resumed_is(undisturbed, runs, overrides, name):
    run = completed(runs, name, overrides)
    assert metrics_of(run) == metrics_of(undisturbed)
    assert json.loads((run / "scores.json").read_text()) == json.loads((undisturbed / "scores.json").read_text())


def test_killed_in_rl_and_resumed_equals_undisturbed(runs, undisturbed, overrides):
    killed_in(runs, overrides, "killed_in_rl", "02-math_rl", 3)
    resumed_is(undisturbed, runs, overrides, "killed_in_rl")


@pytest.mark.long
def test_killed_in_sft_and_in_rl_with_a_bad_checkpoint_and_resumed_equals_undisturbed(runs, undisturbed, overrides):
    run, log = runs / "killed", runs / "killed.log"
    killed_in(runs, overrides, "killed", "01-sft2", 5)
    # One byte of the newest checkpoint flips while nobody looks: the one before must be used.
    newest = sorted((run / "stages" / "01-sft2" / "checkpoints").glob("step_*"))[-1]
    victim = max(
        (p for p in newest.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    killed_in(runs, overrides, "killed", "02-math_rl", 3)
    resumed_is(undisturbed, runs, overrides, "killed")
    assert victim.name in log.read_text() or victim.name in (run / "ledger.jsonl").read_text()


@pytest.mark.long
def test_killed_in_a_stage_of_an_own_kind_and_resumed_equals_undisturbed(runs, undisturbed, overrides):
    killed_in(runs, overrides, "own", "03-brief", 3)
    resumed_is(undisturbed, runs, overrides, "own")
