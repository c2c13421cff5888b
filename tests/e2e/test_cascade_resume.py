"""The whole cascade on the real stack, in miniature: undisturbed, killed twice, resumed, with a damaged checkpoint."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cascade_process import finish, kill_when, metrics_of, start, tail, wait_until_gone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def filtered(runs):
    """Few enough prompts that the stage of RL comes into a second epoch, and filters what the first has shown."""
    sums = [(1000 + 37 * i, 2000 + 91 * i) for i in range(10)]
    rows = [{"messages": [{"role": "user", "content": f"Compute {a}+{b}."}], "answer": str(a + b)} for a, b in sums]
    path = runs / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = "stages.math_rl.prompt_filter={enabled: true, readmit_hard: 0.7}"
    return [f"stages.math_rl.tasks.math.path={path}", "~stages.math_rl.tasks.at_once", rules]


@pytest.fixture(scope="module")
def undisturbed(runs, filtered):
    log = runs / "whole.log"
    assert finish(start(runs, "whole", *filtered), log) == 0, tail(log)
    return runs / "whole"


def test_run_folder_is_laid_out_and_complete(undisturbed):
    for name in ("config.yaml", "provenance.yaml", "ledger.jsonl", "report.html", "scores.json"):
        assert (undisturbed / name).stat().st_size > 0, name
    matrix = json.loads((undisturbed / "scores.json").read_text())
    assert list(matrix) == ["start", "sft1", "sft2", "math_rl"]
    assert all(set(row) == {"math", "instruction"} for row in matrix.values())
    stage = undisturbed / "stages" / "03-math_rl"
    assert len(metrics_of(undisturbed)["03-math_rl"]) == 5
    assert (stage / "hf" / "model.safetensors").is_file() or list((stage / "hf").glob("*.safetensors"))
    assert len(list((stage / "rollouts").glob("step_*.jsonl.gz"))) == 5
    assert json.loads((stage / "gate.json").read_text())["outcome"] == "promote"


def test_the_second_epoch_leaves_prompts_out(undisturbed):
    told = [(line["epoch"], line["prompt_filter"]) for line in metrics_of(undisturbed)["03-math_rl"]]
    assert [epoch for epoch, _ in told][:4] == [0, 0, 1, 1]
    assert told[0][1] == {"prompts": 10, "easy": 0, "hard": 0, "readmitted": 0}
    assert told[2][1]["hard"] > 0
    assert 4 <= told[2][1]["prompts"] < 10


def test_killed_twice_and_resumed_equals_undisturbed(runs, undisturbed, filtered):
    run, log = runs / "killed", runs / "killed.log"
    family = kill_when(start(runs, "killed", *filtered), run / "stages" / "02-sft2" / "metrics.jsonl", 5, log)
    assert family, "a driver with nothing below it wouldn't show what outlives it"
    # One byte of the newest checkpoint flips while nobody looks: the one before must be used.
    newest = sorted((run / "stages" / "02-sft2" / "checkpoints").glob("step_*"))[-1]
    victim = max(
        (p for p in newest.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert wait_until_gone(family) == []
    family = kill_when(start(runs, "killed", *filtered), run / "stages" / "03-math_rl" / "metrics.jsonl", 3, log)
    assert wait_until_gone(family) == []
    assert finish(start(runs, "killed", *filtered), log) == 0, tail(log)
    assert victim.name in log.read_text() or victim.name in (run / "ledger.jsonl").read_text()
    assert metrics_of(run) == metrics_of(undisturbed)
    assert json.loads((run / "scores.json").read_text()) == json.loads((undisturbed / "scores.json").read_text())


def test_folder_of_another_configuration_is_refused_with_the_difference(runs, undisturbed, filtered):
    before = (undisturbed / "config.yaml").read_bytes()
    log = runs / "whole.log"
    code = finish(start(runs, "whole", *filtered, "stages.math_rl.optimizer.lr=0.123"), log)
    assert code == 2
    assert "stages.math_rl.optimizer.lr" in tail(log)
    assert "0.123" in tail(log)
    assert (undisturbed / "config.yaml").read_bytes() == before
