"""A stage goes on from a checkpoint only where that holds all it needs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import CheckpointError
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.context import StageCheckpoints
from nemo_cascade.telemetry.metrics import MetricsLog


class Policy:
    """Keep a state as a checkpoint does."""

    def save_checkpoint(self, folder, state):
        (Path(folder) / "state.json").write_text(json.dumps(state))

    def load_checkpoint(self, folder):
        return json.loads((Path(folder) / "state.json").read_text())


def checkpoints(folder, *overrides):
    told = []
    context = SimpleNamespace(folder=folder, name="math_rl", record=lambda event, **details: told.append(event))
    return StageCheckpoints(context, compose(["cascade=nano", *overrides])[0].stages["math_rl"], 20), told


def test_a_checkpoint_of_an_older_form_is_refused_with_what_it_lacks(tmp_path):
    policy = Policy()
    kept, told = checkpoints(tmp_path)
    kept.save_if_due(policy, 10, {"step": 10, "cursor": 320})
    with pytest.raises(CheckpointError, match=r"lacks stream and history.*step_000010, which holds cursor, step"):
        kept.resume(policy, needs=("stream", "history"))
    assert told == []
    assert kept.resume(policy) == (10, {"step": 10, "cursor": 320})


def test_one_with_all_of_it_is_gone_on_from(tmp_path):
    policy = Policy()
    kept, told = checkpoints(tmp_path)
    state = {"step": 7, "stream": {}, "history": []}
    kept.save_if_due(policy, 7, state)
    assert kept.store.newest() is None
    kept.save_if_due(policy, 7, state, last=True)
    assert kept.resume(policy, needs=("stream", "history")) == (7, state)
    assert told == ["stage_resumed"]


@pytest.mark.parametrize(("metric", "best"), [("reward_mean", 20), ("validation_loss", 40)])
def test_the_best_by_a_metric_stays_beside_the_newest(tmp_path, metric, best):
    policy, log = Policy(), MetricsLog(tmp_path / "metrics.jsonl")
    values = {10: 0.2, 20: 0.9, 30: 0.9, 35: 1.0, 40: 0.1, 50: 0.3, 60: 0.2}
    for step, value in values.items():
        kept, _ = checkpoints(tmp_path, "stages.math_rl.keep_checkpoints=1")
        kept.stage = replace(kept.stage, keep_best=metric)
        log.log(step, {metric: value})
        kept.save_if_due(policy, step, {"step": step})
    there = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert there == [f"step_{best:06d}", "step_000060"]


def test_a_stage_ends_where_its_measurements_rise_no_more():
    config = compose(["cascade=nano", "stages.math_rl.measure={suites: [math], every: 2, patience: 2}"])[0]
    context, stage = SimpleNamespace(config=config), config.stages["math_rl"]

    def end(*means):
        lines = [{"step": 2 * number + 2, "measured_mean": mean} for number, mean in enumerate(means)]
        return Measuring(context, stage, 16, [{"step": 1}, *lines]).reason_to_end

    assert end() is end(0.5, 0.4) is end(0.5, 0.4, 0.6) is end(0.1, 0.2, 0.3, 0.4) is None
    assert end(0.5, 0.4, 0.5) == {"rule": "measured_mean", "value": 0.5, "limit": 0.5}
    assert end(0.5, None, 0.6, 0.2, 0.1)["limit"] == 0.6
    assert Measuring(context, config.stages["if_rl"], 16, [{"measured_mean": 0.1}] * 9).reason_to_end is None
