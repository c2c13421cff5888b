"""Generative reward model: compare a group's responses in pairs, and reward the training of such a model."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nemo_cascade.data.prompts.comparison_rows import comparison_question
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.shaping import Float64
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_ROW = {"score_1": 4, "score_2": 2, "ranking": 2}
_KEYS = ("score_1", "score_2", "ranking")
_JSON = json.JSONDecoder()
# What is searched of a judgement: its end, and so many opening braces from there, each of which may need a look at all.
_MAX_CHARS, _MAX_BRACES = 100_000, 500


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judge's view of a pair: helpfulness 1..5 of each, ranking 1 (first far better) .. 6 (second far better)."""

    first: float
    second: float
    ranking: float


UNPARSABLE = Comparison(3.0, 3.0, 3.5)
"""What counts for a pair whose judgement can't be read after all tries: neither better nor worse."""


@dataclass(frozen=True)
class GroupScores:
    """Rewards of a group.

    Attributes:
        rewards_G: each response's mean over its matches.
        unparsable: comparisons that counted as undecided because the judge's text couldn't be read.
    """

    rewards_G: Float64
    unparsable: int


def parse_comparison(text: str) -> Comparison | None:
    """Read the last JSON object after `</think>` that holds the three numbers; None if they can't be read.

    The object may hold more (reasons, lists, other objects) or stand within another one. Both scores are whole numbers
    1..5 and the ranking is one in 1..6, as the paper's model is asked for them (arXiv 2512.20848, section 3.3.1);
    numbers as text count, truth values and fractions don't. NeMo Gym's reader is laxer (it takes scores out of range
    and JSON that stands in the thinking alone); a training reward that did so would teach a bad format.
    """
    answer = split_response(text).answer
    if answer is None:
        return None
    fields = _last_object(answer[-_MAX_CHARS:])
    if fields is None:
        return None
    numbers = [_whole_number(fields[key]) for key in _KEYS]
    if any(number is None for number in numbers):
        return None
    first, second, ranking = (number or 0 for number in numbers)
    if not (1 <= first <= 5 and 1 <= second <= 5 and 1 <= ranking <= 6):
        return None
    return Comparison(first, second, ranking)


def _last_object(text: str) -> Mapping[str, Any] | None:
    """Return the last object with all keys, the outer one where one stands in another."""
    starts = [match for match, char in enumerate(text) if char == "{"][-_MAX_BRACES:]
    last, end = None, 0
    for start in starts:
        if start < end:  # inside of an object that has been read
            continue
        try:
            value, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        last = _with_keys(value) or last
    return last


def _with_keys(value: Any) -> Mapping[str, Any] | None:
    """Return the first object with all keys in a value, breadth first."""
    level = [value]
    while level:
        for item in level:
            if isinstance(item, dict) and all(key in item for key in _KEYS):
                return item
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for items in inner for item in items]
    return None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and len(value) < 20 and value.isascii() and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def match_scores(comparison: Comparison) -> tuple[float, float]:
    """Return the two scores of a match; the ranking breaks a tie (arXiv 2512.20848, section 3.3.2)."""
    if comparison.first != comparison.second:
        return comparison.first, comparison.second
    edge = 3.5 - comparison.ranking
    return comparison.first + edge, comparison.second - edge


class GenRM:
    """Scores the responses to one prompt by comparing them in pairs: neighbours in a circle, or all.

    Args:
        client: the judge's server.
        concurrency: comparisons under way at once.
        parse_attempts: tries for a judgement that can be read.
        sampling: of the judge.
        pairs: circular compares each with its two neighbours (N comparisons); all, each with each (N (N - 1) / 2);
            positions alternate, so that each response stands first about as often as second.
    """

    def __init__(
        self,
        client: JudgeClient,
        concurrency: int = 8,
        parse_attempts: int = 3,
        sampling: Mapping[str, Any] | None = None,
        pairs: Literal["circular", "all"] = "circular",
    ) -> None:
        self._pairs = pairs
        self._client = client
        self._concurrency, self._attempts = concurrency, parse_attempts
        self._sampling = sampling or {"temperature": 0.6, "top_p": 0.95, "max_tokens": 16_384}

    def score_group(self, messages: Sequence[Mapping[str, str]], responses: Sequence[Response]) -> GroupScores:
        """Compare the pairs, and return each response's mean over its matches.

        Args:
            messages: the prompt's conversation.
            responses: at least two.

        Raises:
            VerifierError: the server gives no answer (kind `infrastructure`).
        """
        count = len(responses)
        assert count >= 2, "a comparison takes two responses"
        parts = [split_response(response.text) for response in responses]
        answers = [part.answer if part.answer is not None else r.text for part, r in zip(parts, responses, strict=True)]
        pairs = compared_pairs(count, self._pairs)
        with ThreadPoolExecutor(min(self._concurrency, count)) as threads:
            views = list(threads.map(lambda p: self._compare(messages, answers[p[0]], answers[p[1]]), pairs))
        matches: list[list[float]] = [[] for _ in responses]
        for (i, j), view in zip(pairs, views, strict=True):
            for index, score in zip((i, j), match_scores(view or UNPARSABLE), strict=True):
                matches[index].append(score)
        means = np.array([np.mean(scores) for scores in matches], dtype=np.float64)
        return GroupScores(means, views.count(None))

    def _compare(self, messages: Sequence[Mapping[str, str]], first: str, second: str) -> Comparison | None:
        question = comparison_question(messages, first, second)
        for _ in range(self._attempts):
            choice = self._client.chat([{"role": "user", "content": question}], **self._sampling)
            view = parse_comparison(str((choice.get("message") or {}).get("content") or ""))
            if view is not None:
                return view
        return None


def compared_pairs(count: int, pairs: Literal["circular", "all"]) -> list[tuple[int, int]]:
    """Return who is compared with whom, first and second, of so many responses."""
    if pairs == "circular":
        return [(i, (i + 1) % count) for i in range(count)]
    every = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return [(i, j) if (i + j) % 2 else (j, i) for i, j in every]


class GenRMTrainingVerifier:
    """Reward a comparison by its distance from people's (arXiv 2512.20848, section 3.3.1):

        R = -C1 * [bad format] - |h1 - g1| - |h2 - g2| - C2 * |rank - g_rank|

    The row has `score_1`, `score_2` (1..5) and `ranking` (1..6), which may be means of several people's. A bad format
    gets -C1 alone: nothing can be compared; what is one, says `parse_comparison`.

    Args:
        format_penalty: C1.
        ranking_weight: C2.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden('<think>a</think>{"score_1": 4, "score_2": 2, "ranking": 2}', 0.0, _ROW),
        Golden('{"score_1": 3, "score_2": 4, "ranking": 5}', -6.0, _ROW),
        Golden("the first is better", -10.0, _ROW),
        Golden('{"score_1": 9, "score_2": 2, "ranking": 2}', -10.0, _ROW),
        Golden('{"why": {"a": "b"}, "score_1": 4, "score_2": 2, "ranking": 2}', 0.0, _ROW),
        Golden('{"score_1": true, "score_2": 2, "ranking": 2}', -10.0, _ROW),
        Golden("", None, {}, error="record"),
    )

    def __init__(self, format_penalty: float = 10.0, ranking_weight: float = 1.0) -> None:
        self._format_penalty, self._ranking_weight = format_penalty, ranking_weight

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward, at most 0; see `Verifier.verify`."""
        gold = Comparison(*(float(field_of(record, key, (int, float))) for key in _KEYS))
        if not (1 <= gold.first <= 5 and 1 <= gold.second <= 5 and 1 <= gold.ranking <= 6):
            raise VerifierError("record", f"scores must be 1..5 and the ranking 1..6, got {gold}")
        ours = parse_comparison(response.text)
        if ours is None:
            return Score(-self._format_penalty, "no comparison that can be read")
        distance = abs(ours.first - gold.first) + abs(ours.second - gold.second)
        return Score(0.0 - distance - self._ranking_weight * abs(ours.ranking - gold.ranking))
