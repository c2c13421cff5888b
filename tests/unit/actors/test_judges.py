"""Who is handed what, with scripted judges; the real ones run in tests/distributed."""

import numpy as np
import pytest

from nemo_cascade.actors.judges import Judges
from nemo_cascade.errors import RewardError
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn


class Scripted:
    def __init__(self, by_group):
        self.by_group, self.calls = by_group, []

    def submit(self, samples):
        self.calls.append([answer.place for _, answer in samples])

    def drain(self):
        return [(place, Verdict(1.0)) for call in self.calls for place in call]


def sample(name, number, verifier):
    ids = np.array([1, 2], np.int32)
    task = Task(name, "x", verifier, ids, {})
    return task, first_turn(name, number, ids, ids, np.zeros(2, np.float32), FinishReason.STOP, 1)


def test_a_judge_of_groups_gets_each_task_whole_and_in_order_and_one_of_samples_gets_them_as_they_come():
    pools, scorer = Scripted(False), Scripted(True)
    judges = Judges(pools, scorer, group_size=3)
    judges.submit([sample("a", 2, "preference"), sample("m", 0, "math"), sample("b", 1, "preference")])
    judges.submit([sample("a", 0, "preference"), sample("m", 1, "math")])
    assert scorer.calls == []
    judges.submit([sample("a", 1, "preference"), sample("b", 0, "preference")])
    assert pools.calls == [[("m", 0)], [("m", 1)]]
    assert scorer.calls == [[("a", 0), ("a", 1), ("a", 2)]]
    # A group that never became whole can't be judged: an error, not a score.
    verdicts = dict(judges.drain())
    assert verdicts["a", 1].score == verdicts["m", 1].score == 1.0
    assert {verdicts["b", i].error for i in (0, 1)} == {"group"}
    assert not any(place[0] == "b" for place, _ in judges.drain())


def test_a_judge_that_is_not_there_is_named():
    judges = Judges(Scripted(False), None, group_size=2)
    with pytest.raises(RewardError, match="no reward model to ask"):
        judges.submit([sample("a", 0, "preference")])
    with pytest.raises(RewardError, match="no generative reward model to ask"):
        judges.submit([sample("a", 0, "genrm")])
