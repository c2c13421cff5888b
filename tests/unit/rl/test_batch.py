"""What a step's line says of its rollouts, where they are of several domains: what a log takes, one level by name."""

import numpy as np

from nemo_cascade.rl.batch import RolloutBatch, marked
from nemo_cascade.rl.group import Group
from nemo_cascade.telemetry.metrics import MetricsLog
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn


def group(domain, scores):
    answers = [
        first_turn(
            domain, i, np.array([1], np.int32), np.full(2, 7, np.int32), np.zeros(2, np.float32), FinishReason.STOP, 1
        )
        for i in range(len(scores))
    ]
    task = Task(domain, domain, "math", np.array([1], np.int32), {"mode": "think"})
    return Group(task, answers, [Verdict(score) for score in scores])


def test_the_line_of_a_batch_of_several_domains_can_be_logged(tmp_path):
    groups = [group("math", [1.0, 0.0]), group("code", [1.0, 1.0])]
    batch = RolloutBatch(groups, marked(groups, [], None), np.zeros((2, 2)), 0, 1)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.log(1, batch.metrics())
    (line,) = log.read()
    assert line["reward_mean_by_domain"] == {"code": 1.0, "math": 0.5}
    assert line["groups_by_domain"] == {"code": 1, "math": 1}
