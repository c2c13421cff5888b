"""Rewards that need a whole group of responses: normalised, combined, and controlled for length.

Shapes: G responses to one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nemo_cascade.rewards.response import split_response

Float64 = NDArray[np.float64]

_SPREAD_EPSILON = 1e-6


def group_z_scores(scores_G: ArrayLike) -> Float64:
    """Return (score - mean) / standard deviation within the group; all 0 where the scores don't differ."""
    scores = np.asarray(scores_G, dtype=np.float64)
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > _SPREAD_EPSILON else np.zeros_like(scores)


def combined_instruction_rewards(verified_G: ArrayLike, scores_G: ArrayLike) -> Float64:
    """Combine verified constraints with a reward model's scores (arXiv 2512.13607, section 4.4.2).

        r_i = 1 + sigmoid(z_i) if all constraints of i are verified, else 0;  z = group z-score of the model's scores

    A verified response thus always beats one that isn't, and among the verified the better-written one wins.
    """
    verified = np.asarray(verified_G, dtype=bool)
    combined: Float64 = np.where(verified, 1.0 + 1.0 / (1.0 + np.exp(-group_z_scores(scores_G))), 0.0)
    return combined


def bounded_scores(scores_G: ArrayLike) -> Float64:
    """Return tanh of the group z-scores: bounded, for a shaky reward model (arXiv 2512.13607, sections 4.3 and 6)."""
    bounded: Float64 = np.tanh(group_z_scores(scores_G))
    return bounded


def punish_code_switch(scores: ArrayLike, switched: ArrayLike, margin: float = 10.0) -> Float64:
    """Set responses that switch language to the batch's minimum minus a margin (arXiv 2512.13607, section 4.3).

    Args:
        scores: reward-model scores of the whole batch, any shape.
        switched: same shape, true where the response holds foreign text.
        margin: how far below the minimum of all scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    punished: Float64 = np.where(np.asarray(switched, dtype=bool), values.min() - margin, values)
    return punished


@dataclass(frozen=True)
class LengthControl:
    """Coefficients of group-relative length control (arXiv 2512.20848, section 3.3.2).

    Attributes:
        think, answer: weights of the two centred length terms.
        think_bonus, answer_bonus: given to the shortest thinking, the shortest answer, if good enough.
        quality_percentile: percentile of the group's base rewards that is good enough, see `good_enough`.
    """

    think: float = 0.5
    answer: float = 0.5
    think_bonus: float = 0.5
    answer_bonus: float = 0.5
    quality_percentile: float = 80.0


def part_lengths(texts_G: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return how long the thinking of each response is, and its answer, in characters of stripped text.

    Thinking that never ended is thinking, and the whole text also counts as the answer.
    """
    parts = [split_response(text) for text in texts_G]
    answers = [part.answer if part.answer is not None else text for part, text in zip(parts, texts_G, strict=True)]
    return [len(part.reasoning.strip()) for part in parts], [len(answer.strip()) for answer in answers]


def length_weights(lengths_G: ArrayLike) -> Float64:
    """Return 1 for the shortest down to 0 for the longest, centred on the group's mean; all 0 if they are equal."""
    lengths = np.asarray(lengths_G, dtype=np.float64)
    span = lengths.max() - lengths.min()
    if span <= 0:
        return np.zeros_like(lengths)
    weights = 1.0 - (lengths - lengths.min()) / span
    centred: Float64 = weights - weights.mean()
    return centred


def good_enough(base_G: ArrayLike, percentile: float) -> float:
    """Return the least reward that is good enough for a bonus: one of the group's own, not a value between two.

    It is the one at place max(0, int(N * share above the percentile) - 1), counted from the best: the paper doesn't
    define its percentile, its run used this one (NeMo Gym, resources_servers/genrm_compare/utils.py). With 8 responses
    and the 80th percentile only the best is good enough; interpolation would let the second in, too.
    """
    descending = sorted(np.asarray(base_G, dtype=np.float64).tolist(), reverse=True)
    # A product of whole numbers, so that a fifth of ten is two: ten times (1 - 0.8) is just under it.
    place = int(len(descending) * (100.0 - percentile) / 100.0) - 1
    return float(descending[max(0, place)])


def length_controlled(base_G: ArrayLike, think_G: ArrayLike, answer_G: ArrayLike, control: LengthControl) -> Float64:
    """Reward short responses of a group, within limits set by their quality.

        R_i = base_i + think * w_i(thinking) + answer * w_i(answer) + bonuses

    A bonus goes to the shortest non-empty part only if its response's base reward reaches the group's percentile: it
    may not pay to be short and bad.

    Args:
        base_G: rewards from the comparisons.
        think_G: lengths of the thinking, in characters of stripped text.
        answer_G: lengths of the answers, likewise.
        control: coefficients.
    """
    base = np.asarray(base_G, dtype=np.float64)
    threshold = good_enough(base, control.quality_percentile)
    rewards = base + control.think * length_weights(think_G) + control.answer * length_weights(answer_G)
    for lengths_G, bonus in ((think_G, control.think_bonus), (answer_G, control.answer_bonus)):
        lengths = np.asarray(lengths_G, dtype=np.float64)
        if not (lengths > 0).any():
            continue
        shortest = int(np.argmin(np.where(lengths > 0, lengths, np.inf)))
        if base[shortest] >= threshold:
            rewards[shortest] += bonus
    return rewards
