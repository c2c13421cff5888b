"""From judged groups to pairs: the best of a prompt's responses against the worst, where the rules let them be a pair.

Where a verifier judges and a reward model has its say beside it, responses are ordered by the verifier's score first
and by the reward model's among equals: ground truth decides where there is some (arXiv 2406.11704, section 3.3.2). A
pair's rewards are the verifier's scores where these differ, else the reward model's.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nemo_cascade.config.stages.preference import PairRuleConfig
from nemo_cascade.rl.group import Group
from nemo_cascade.types import FinishReason

Outcome = Literal["pair", "tied", "low_quality", "truncated", "unjudged"]
"""What became of a group: a pair; its best and worst are equally good; its best one isn't good enough; all that could
be chosen were cut off; fewer than two of its responses have a verdict."""
OUTCOMES: tuple[Outcome, ...] = ("pair", "tied", "low_quality", "truncated", "unjudged")


@dataclass(frozen=True, slots=True)
class Pairing:
    """What became of a group.

    Attributes:
        outcome: whether it is a pair.
        chosen: number of the chosen response, where it is one.
        rejected: number of the rejected one.
        rewards: of both.
    """

    outcome: Outcome
    chosen: int = -1
    rejected: int = -1
    rewards: tuple[float, float] = (0.0, 0.0)


def pair_of(group: Group, rule: PairRuleConfig) -> Pairing:
    """Make a pair of a group, or say why it makes none; among equals the first response is taken."""
    judged = [s for s in range(len(group.answers)) if group.valid(s)]
    if len(judged) < 2:
        return Pairing("unjudged")

    def merit(s: int) -> tuple[float, float]:
        return _score(group, s), _preference(group, s)

    whole = [s for s in judged if not rule.skip_truncated or group.answers[s].finish_reason != FinishReason.LENGTH]
    if not whole:
        return Pairing("truncated")
    chosen, rejected = max(whole, key=merit), min(judged, key=merit)
    rewards = _rewards(merit(chosen), merit(rejected), bool(group.preferences))
    same = np.array_equal(group.answers[chosen].token_ids, group.answers[rejected].token_ids)
    if same or rewards[0] - rewards[1] <= rule.least_gap:
        return Pairing("tied")
    if rule.least_chosen is not None and rewards[0] < rule.least_chosen:
        return Pairing("low_quality")
    return Pairing("pair", chosen, rejected, rewards)


def _score(group: Group, sample: int) -> float:
    score = group.score(sample)
    assert score is not None, "only judged responses are compared"
    return score


def _preference(group: Group, sample: int) -> float:
    verdict = group.preferences.get(sample)
    return 0.0 if verdict is None or verdict.score is None else verdict.score


def _rewards(chosen: tuple[float, float], rejected: tuple[float, float], asked: bool) -> tuple[float, float]:
    told_apart = chosen[0] != rejected[0]
    place = 1 if asked and not told_apart else 0
    return chosen[place], rejected[place]
