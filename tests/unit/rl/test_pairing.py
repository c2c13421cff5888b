"""Which two of a prompt's responses become its pair."""

import numpy as np
import pytest

from nemo_cascade.config.stages.preference import PairRuleConfig
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.pairing import Pairing, pair_of
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

STOP, LENGTH, ABORT = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT


def group(scores, preferences=None, ends=None, tokens=None):
    task = Task("t", "d", "math", np.array([1, 2], np.int32), {})
    ends, tokens = ends or [STOP] * len(scores), tokens or range(len(scores))
    answers = [
        first_turn("t", i, task.token_ids, np.array([token], np.int32), np.zeros(1), end, 0)
        for i, (end, token) in enumerate(zip(ends, tokens, strict=True))
    ]

    def verdict(score):
        return Verdict(None, "crash") if score is None else Verdict(score)

    liked = {} if preferences is None else {i: verdict(p) for i, p in enumerate(preferences)}
    return Group(task, answers, [verdict(score) for score in scores], liked)


@pytest.mark.parametrize(
    ("given", "rule", "expected"),
    [
        # Best against worst, the first among equals.
        ({"scores": [0.2, 0.9, -1.0, 0.9]}, {}, Pairing("pair", 1, 2, (0.9, -1.0))),
        # Ground truth first: the reward model decides among the right ones, and among the wrong ones.
        (
            {"scores": [0, 1, 1, 0], "preferences": [9.0, 2.0, 3.0, -4.0]},
            {"least_gap": 0.5},
            Pairing("pair", 2, 3, (1.0, 0.0)),
        ),
        # Where it tells nothing apart, the reward model's scores are the rewards.
        ({"scores": [1, 1, 1], "preferences": [0.5, 2.0, 1.0]}, {}, Pairing("pair", 1, 0, (2.0, 0.5))),
        ({"scores": [1, 1]}, {}, Pairing("tied")),
        ({"scores": [0.3, 0.4]}, {"least_gap": 0.2}, Pairing("tied")),
        ({"scores": [0.3, 0.6], "tokens": [5, 5]}, {}, Pairing("tied")),
        ({"scores": [0.3, 0.6]}, {"least_chosen": 0.7}, Pairing("low_quality")),
        # What was cut off isn't chosen, but may be rejected.
        ({"scores": [0.5, 0.9, 0.2], "ends": [STOP, LENGTH, LENGTH]}, {}, Pairing("pair", 0, 2, (0.5, 0.2))),
        ({"scores": [0.5, 0.9], "ends": [STOP, LENGTH]}, {"skip_truncated": False}, Pairing("pair", 1, 0, (0.9, 0.5))),
        ({"scores": [0.5, 0.9], "ends": [LENGTH, LENGTH]}, {}, Pairing("truncated")),
        # An error is never a score, of either judge.
        ({"scores": [None, 0.9, 0.1]}, {}, Pairing("pair", 1, 2, (0.9, 0.1))),
        ({"scores": [1, 0], "preferences": [None, 1.0]}, {}, Pairing("unjudged")),
        ({"scores": [0.5, 0.9], "ends": [ABORT, STOP]}, {}, Pairing("unjudged")),
    ],
)
def test_the_pair_follows_from_the_scores(given, rule, expected):
    assert pair_of(group(**given), PairRuleConfig(**rule)) == expected
