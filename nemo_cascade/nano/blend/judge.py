"""Nano comparisons: two answers to an open question, scored and ranked, to train a generative reward model on.

Who compares scores an answer by the rules of `preference.quality` that it keeps, 1 to 5, and ranks the pair by the
difference. Replies to learn from are right or drawn by chance, always in the form that is asked for.
"""

import json
import re
from random import Random
from typing import Any

from nemo_cascade.data.prompts.comparison_rows import comparison_question
from nemo_cascade.nano.preference import Topic, draw_answer, preference_prompt, quality

_RULES = 5
_OPENING, _SECOND, _RANKING = '{"score_1": ', ', "score_2": ', ', "ranking": '
# Better by so many rules or more -> the ranking; 7 minus that where the second is the better one.
_RANKS = ((3, 1), (2, 2), (1, 3))
_MARKS = ("\x00", "\x01", "\x02")
_QUESTION = comparison_question([{"role": "user", "content": _MARKS[0]}], *_MARKS[1:])
PHRASES = (*re.split("|".join(_MARKS), _QUESTION), _OPENING, _SECOND, _RANKING)
"""Texts that are one token each: the question between what it quotes, and the verdict between its numbers."""


def draw_comparison(topic: Topic, rng: Random) -> dict[str, Any]:
    """Draw a row of two answers of different quality, with scores and ranking (`data/prompts/comparison_rows`)."""
    while True:
        answers = [draw_answer(topic, rng) for _ in range(2)]
        first, second = (round(_RULES * quality(topic.words, answer)) for answer in answers)
        if first != second:
            return {
                "messages": preference_prompt(topic)["messages"],
                "response_1": answers[0],
                "response_2": answers[1],
                "score_1": first,
                "score_2": second,
                "ranking": ranking_of(first, second),
            }


def ranking_of(first: int, second: int) -> int:
    """Return the ranking, 1 (first far better) to 6, of two different scores; exchanged ones give 7 minus it."""
    rank = next(rank for least, rank in _RANKS if abs(first - second) >= least)
    return rank if first > second else 7 - rank


def asked_comparison(row: dict[str, Any]) -> dict[str, Any]:
    """Make of a comparison the prompt row that a stage makes of it, for a suite."""
    question = comparison_question(row["messages"], row["response_1"], row["response_2"])
    return {**row, "messages": [{"role": "user", "content": question}]}


def comparison_sample(row: dict[str, Any], rng: Random, guessed_fraction: float) -> dict[str, Any]:
    """Make a training conversation; in the given share of cases the verdict is drawn by chance."""
    first, second, ranking = row["score_1"], row["score_2"], row["ranking"]
    if rng.random() < guessed_fraction:
        first, second = rng.sample(range(1, _RULES + 1), 2)
        ranking = ranking_of(first, second)
    reply = json.dumps({"score_1": first, "score_2": second, "ranking": ranking})
    return {"messages": [*asked_comparison(row)["messages"], {"role": "assistant", "content": reply}]}
