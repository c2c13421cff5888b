"""A stage of continuous generation on the real stack: killed and resumed, no prompt is lost or trained twice."""

import gzip
import json
import pickle

import pytest

from tests.e2e.cascade_process import MICRO, completed, kill_when, metrics_of, start_run, wait_until_gone

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

STEPS, PROMPTS = 6, 4
OVERRIDES = [
    *(override for override in MICRO if not override.startswith(("stages.sft1.", "stages.math_rl.steps"))),
    "~stages.sft1",
    f"stages.math_rl.steps={STEPS}",
    "~stages.math_rl.tasks.at_once",
    "stages.math_rl.measure={suites: [math], every: 2, num_prompts: 4}",
    "stages.math_rl.max_staleness=1",
    "stages.math_rl.generation={mode: continuous, oversampling: 1.5}",
    "rollout.max_num_seqs=12",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    sums = [(1000 + 37 * i, 2000 + 91 * i) for i in range(60)]
    rows = [{"messages": [{"role": "user", "content": f"Compute {a}+{b}."}], "answer": str(a + b)} for a, b in sums]
    (runs / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [*OVERRIDES, f"stages.math_rl.tasks.math.path={runs / 'sums.jsonl'}"]
    log, metrics = runs / "killed.log", runs / "killed" / "stages" / "02-math_rl" / "metrics.jsonl"
    family = kill_when(start_run(runs, "killed", overrides), metrics, 3, log)
    assert wait_until_gone(family) == []
    return completed(runs, "killed", overrides)


def test_no_prompt_is_trained_twice_or_lost(run):
    stage = run / "stages" / "02-math_rl"
    trained = []
    for step in range(1, STEPS + 1):
        with gzip.open(stage / "rollouts" / f"step_{step:06d}.jsonl.gz", "rt") as lines:
            names = [json.loads(line)["prompt_id"] for line in lines]
        assert len(set(names)) == PROMPTS
        trained += sorted(set(names))
    held = pickle.loads((stage / "checkpoints" / f"step_{STEPS:06d}" / "rollouts_ahead.pickle").read_bytes())
    to_come = [entry.task.task_id for entry in held.whole] + [task.task_id for task, _ in held.to_ask]
    everything = trained + to_come
    assert len(everything) == len(set(everything))
    assert len(everything) % PROMPTS == 0  # prompts are drawn a step's number at a time
    assert to_come


def test_the_lines_tell_how_old_rollouts_are_and_what_was_given_up(run):
    lines = metrics_of(run)["02-math_rl"]
    assert len(lines) == STEPS
    assert all(0 <= line["staleness_max"] <= 1 for line in lines)
    assert any(line["staleness_max"] == 1 for line in lines)
    assert all({"groups_given_up", "tokens_given_up", "rollouts_over_versions"} <= line.keys() for line in lines)
    assert any(line["rollouts_over_versions"] for line in lines)
