"""Nano preference: an open question about two things, answered well or badly by four rules a reward model can learn.

A good answer to "Tell me about: cat sun" is "I like the cat and the sun." The answers that a policy learns from break
each of the rules half of the time, so a reward model has something to tell apart and reinforcement learning something
to gain. The rules themselves are known (`quality`): they say, beside the reward model's score, whether a policy that is
trained on that score got better or only found out what the score likes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.instruction import WORDS
from nemo_cascade.nano.math import Split, split_of

FLAWS = ("fragment", "joins", "repeats", "unended")
ASKS = ("Tell me about", "Write about")
# fmt: off
THINGS = (
    *WORDS, "ant", "bag", "ball", "bed", "bell", "bus", "cake", "car", "coat", "corn", "door", "duck", "egg", "fork",
    "frog", "goat", "hat", "hill", "key", "lake", "lamp", "milk", "nest", "pan", "rain", "road", "sand", "ship",
    "star", "tent", "vase", "wind", "wolf", "yarn",
)
# fmt: on
# fmt: off
PHRASES = (
    *(f"{ask}:" for ask in ASKS), "I like", " the", "the", " and", "Name", *(f" {thing}" for thing in THINGS),
)
# fmt: on
"""Texts that are one token each."""
# A pair whose better answer keeps one rule more is labelled right in 98 of 100 cases, two rules more in 99.97.
_LABEL_SHARPNESS = 20.0
# How often an answer is rated by a rule at all, and how often its rating is off by one.
_RATED, _SLIP = 0.9, 0.1
_LINKED = re.compile(r"(I like )?the [a-z]+( and the [a-z]+)*\.?")


@dataclass(frozen=True, slots=True)
class Topic:
    """An open question: how it is asked, and what about."""

    ask: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question as it is written."""
        return f"{self.ask}: {' '.join(self.words)}"

    @property
    def canonical(self) -> str:
        """The question's name: the same things in any order, asked for in any way, are the same question."""
        return " ".join(sorted(self.words))

    @property
    def split(self) -> Split:
        """Whose question it is."""
        return split_of(f"about {self.canonical}")


def draw_topic(rng: Random, split: Split) -> Topic:
    """Draw a question of a split, about two things."""
    while True:
        topic = Topic(rng.choice(ASKS), tuple(rng.sample(THINGS, 2)))
        if topic.split == split:
            return topic


def answer(topic: Topic, flaws: Sequence[str], rng: Random) -> str:
    """Write an answer that has these flaws and no other."""
    named = list(topic.words)
    if "repeats" in flaws:
        place = rng.randrange(len(named))
        named.insert(place, named[place])
    text = (" " if "joins" in flaws else " and ").join(f"the {word}" for word in named)
    text = text if "fragment" in flaws else f"I like {text}"
    return text if "unended" in flaws else f"{text}."


def quality(words: Sequence[str], text: str) -> float:
    """Return the share of the five rules that an answer keeps.

    It is a sentence; its parts are linked; it names nothing twice; it ends with a full stop; it names what was asked
    about and nothing else. No answer that a policy or a reward model learns from breaks the last rule: a policy that
    forgets or strays to please its reward model is seen here alone.
    """
    named = [word for word in re.findall(r"[a-z]+", text) if word in THINGS]
    kept = (*rules_kept(text).values(), set(named) == set(words))
    return sum(kept) / len(kept)


def rules_kept(text: str) -> dict[str, bool]:
    """Tell which of the rules that answers are drawn by an answer keeps; the attributes that it is rated by."""
    named = [word for word in re.findall(r"[a-z]+", text) if word in THINGS]
    return {
        "sentence": text.startswith("I like "),
        "linked": _LINKED.fullmatch(text) is not None,
        "distinct": bool(named) and len(set(named)) == len(named),
        "ended": text.endswith("."),
    }


def draw_answer(topic: Topic, rng: Random) -> str:
    """Draw an answer that has each flaw half of the time."""
    return answer(topic, [flaw for flaw in FLAWS if rng.random() < 0.5], rng)


def preference_prompt(topic: Topic) -> dict[str, Any]:
    """Make a prompt row; `words` is for the verifier of the true quality, a reward model needs nothing."""
    return {"messages": [{"role": "user", "content": topic.text}], "words": list(topic.words)}


def preference_sample(topic: Topic, rng: Random, *, thinks: bool) -> dict[str, Any]:
    """Make a training conversation of mixed quality; a reply that thinks notes the things before it names them."""
    (question,) = preference_prompt(topic)["messages"]
    reply = {"role": "assistant", "content": draw_answer(topic, rng)}
    return {
        "messages": [question, {**reply, "reasoning_content": f"Name {' '.join(topic.words)}"} if thinks else reply]
    }


def preference_pair(topic: Topic, rng: Random) -> dict[str, Any]:
    """Make a pair of answers of different quality; the better one is preferred, but for a judge's rare slip."""
    while True:
        left, right = draw_answer(topic, rng), draw_answer(topic, rng)
        difference = quality(topic.words, left) - quality(topic.words, right)
        if difference == 0:
            continue
        prefers_left = rng.random() < 1.0 / (1.0 + math.exp(-_LABEL_SHARPNESS * difference))
        chosen, rejected = (left, right) if prefers_left else (right, left)
        return {"messages": preference_prompt(topic)["messages"], "chosen": chosen, "rejected": rejected}


def rated_answers(topic: Topic, rng: Random) -> list[dict[str, Any]]:
    """Make two rated answers: 4 for each rule that one keeps, else 0, with a rater's slips by one, and gaps."""
    rows = []
    for _ in range(2):
        text = draw_answer(topic, rng)
        (question,) = preference_prompt(topic)["messages"]
        row: dict[str, Any] = {"messages": [question, {"role": "assistant", "content": text}]}
        for name, kept in rules_kept(text).items():
            if rng.random() < _RATED:
                slip = rng.random() < _SLIP
                row[name] = 4 * kept + (-1 if kept else 1) * slip
        if len(row) > 1:
            rows.append(row)
    return rows


def preference_rows(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Generate all rows, by file name: conversations, pairs and rated answers, both also to hold out, and prompts.

    Every third conversation's reply thinks. Conversations and pairs are about other things than the training prompts,
    and both than the hold-out sets.
    """

    def topics(name: str, split: Split, count: int, *, distinct: bool = False) -> tuple[list[Topic], Random]:
        rng = Random(f"{seed}/preference_{name}")
        drawn: list[Topic] = []
        seen: set[str] = set()
        while len(drawn) < count:
            topic = draw_topic(rng, split)
            if not distinct or topic.text not in seen:
                seen.add(topic.text)
                drawn.append(topic)
        return drawn, rng

    rows: dict[str, list[dict[str, Any]]] = {}
    drawn, rng = topics("sft", "sft", 6500)
    rows["preference_sft"] = [preference_sample(topic, rng, thinks=i % 3 == 2) for i, topic in enumerate(drawn)]
    pairs: tuple[tuple[str, Split, int], ...] = (("pairs", "sft", 6000), ("holdout", "test", 600))
    for name, split, count in pairs:
        drawn, rng = topics(name, split, count)
        rows[f"preference_{name}"] = [preference_pair(topic, rng) for topic in drawn]
    rated: tuple[tuple[str, Split, int], ...] = (("rated", "sft", 3000), ("rated_holdout", "test", 300))
    for name, split, count in rated:
        drawn, rng = topics(name, split, count, distinct=split == "test")
        rows[f"preference_{name}"] = [row for topic in drawn for row in rated_answers(topic, rng)]
    prompts: tuple[tuple[str, Split, int], ...] = (("train", "rl", 600), ("test", "test", 300))
    for name, split, count in prompts:
        drawn, _ = topics(name, split, count, distinct=True)
        rows[f"preference_{name}"] = [preference_prompt(topic) for topic in drawn]
    return rows
