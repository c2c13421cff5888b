"""Nano instruction following: lists of words under two or three IFEval rules (arXiv 2311.07911) at once.

A careful reply obeys every rule. A careless one breaks exactly one of them, as replies in real training sets do; a
mixture of both leaves reinforcement learning something true to find.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.math import Split, split_of

WORDS = ("apple", "bird", "boat", "book", "cat", "cup", "dog", "fish", "moon", "river", "sun", "tree")
# fmt: off
PHRASES = (
    "List words.", " Use", " Say", " times.", " Avoid", " At least", " words.", " Under", " End with", " In quotes.",
    " With a title.", " No commas.", "Words:", "<<Words>>",
)
# fmt: on
"""Texts that are one token each."""
_DRAWS = 40


@dataclass(frozen=True, slots=True)
class WordList:
    """A reply: a head, which counts as a word, and the list behind it."""

    words: tuple[str, ...]
    commas: bool = True
    quotes: bool = False
    title: bool = False

    @property
    def text(self) -> str:
        """The reply as it is written."""
        line = f"{'<<Words>>' if self.title else 'Words:'} {(', ' if self.commas else ' ').join(self.words)}"
        return f'"{line}"' if self.quotes else line


@dataclass(frozen=True, slots=True)
class Rule:
    """One of IFEval's instruction types with its arguments.

    Attributes:
        name: the type.
        text: the rule in words.
        arguments: what the verifier is told.
        holds: tells whether a reply obeys it.
        bend: changes a list so that it is likely to.
    """

    name: str
    text: str
    arguments: dict[str, Any]
    holds: Callable[[WordList], bool]
    bend: Callable[[list[str]], list[str]] = list


def _use(rng: Random) -> Rule:
    word = rng.choice(WORDS)
    return Rule(
        "keywords:existence",
        f"Use {word}.",
        {"keywords": [word]},
        lambda reply: word in reply.words,
        lambda words: [*words[:-1], word],
    )


def _repeat(rng: Random) -> Rule:
    word, times = rng.choice(WORDS), rng.choice((2, 3))
    return Rule(
        "keywords:frequency",
        f"Say {word} {times} times.",
        {"keyword": word, "relation": "at least", "frequency": times},
        lambda reply: reply.words.count(word) >= times,
        lambda words: [*[word] * times, *words[times:]],
    )


def _avoid(rng: Random) -> Rule:
    avoided = rng.choice(WORDS)
    return Rule(
        "keywords:forbidden_words",
        f"Avoid {avoided}.",
        {"forbidden_words": [avoided]},
        lambda reply: avoided not in reply.words,
    )


def _many(rng: Random) -> Rule:
    count = rng.choice((5, 6))
    return Rule(
        "length_constraints:number_words",
        f"At least {count} words.",
        {"relation": "at least", "num_words": count},
        lambda reply: len(reply.words) + 1 >= count,
        lambda words: [*words, *rng.choices(WORDS, k=max(0, count - 1 - len(words)))],
    )


def _few(rng: Random) -> Rule:
    count = rng.choice((3, 4))
    return Rule(
        "length_constraints:number_words",
        f"Under {count} words.",
        {"relation": "less than", "num_words": count},
        lambda reply: len(reply.words) + 1 < count,
        lambda words: words[: count - 2],
    )


def _end(rng: Random) -> Rule:
    word = rng.choice(WORDS)
    return Rule(
        "startend:end_checker",
        f"End with {word}.",
        {"end_phrase": word},
        lambda reply: reply.words[-1] == word and not reply.quotes,
        lambda words: [*words[:-1], word],
    )


def _quotes(_: Random) -> Rule:
    return Rule("startend:quotation", "In quotes.", {}, lambda reply: reply.quotes)


def _title(_: Random) -> Rule:
    return Rule("detectable_format:title", "With a title.", {}, lambda reply: reply.title)


def _no_comma(_: Random) -> Rule:
    return Rule("punctuation:no_comma", "No commas.", {}, lambda reply: not reply.commas)


_MAKERS = (_use, _repeat, _avoid, _many, _few, _end, _quotes, _title, _no_comma)


@dataclass(frozen=True, slots=True)
class Order:
    """An instruction: rules that can all be obeyed at once."""

    rules: tuple[Rule, ...]

    @property
    def text(self) -> str:
        """What is asked."""
        return " ".join(["List words.", *(rule.text for rule in self.rules)])

    @property
    def canonical(self) -> str:
        """The order's name, whichever rule stands first."""
        return " ".join(sorted(rule.text for rule in self.rules))

    @property
    def split(self) -> Split:
        """Whose order it is."""
        return split_of(self.canonical)


def draw_order(rng: Random, split: Split, rules: tuple[int, int] = (2, 3)) -> Order:
    """Draw an order of a split with between rules[0] and rules[1] rules that go together."""
    while True:
        order = Order(tuple(make(rng) for make in rng.sample(_MAKERS, rng.randint(*rules))))
        if order.split == split and _draw_reply(rng, order, None) is not None:
            return order


def reply_to(rng: Random, order: Order, careless_fraction: float) -> WordList:
    """Draw a reply: careful, or in the given share of cases one that breaks a rule."""
    broken = rng.sample(order.rules, 1)[0] if rng.random() < careless_fraction else None
    reply = _draw_reply(rng, order, broken) or _draw_reply(rng, order, None)
    while reply is None:
        reply = _draw_reply(rng, order, None)
    return reply


def _draw_reply(rng: Random, order: Order, broken: Rule | None) -> WordList | None:
    """Draw a reply that breaks just this rule; None where none is found soon."""
    kept = [rule for rule in order.rules if rule is not broken]
    names = {rule.name for rule in kept}
    for _ in range(_DRAWS):
        words = rng.choices(WORDS, k=rng.randint(2, 4))
        for rule in kept:
            words = rule.bend(words)
        reply = WordList(
            tuple(words),
            commas="punctuation:no_comma" not in names,
            quotes="startend:quotation" in names,
            title="detectable_format:title" in names,
        )
        if all(rule.holds(reply) for rule in kept) and not (broken and broken.holds(reply)):
            return reply
    return None


def instruction_prompt(order: Order) -> dict[str, Any]:
    """Make a prompt row: the order, and its rules for the verifier as IFEval writes them."""
    return {
        "messages": [{"role": "user", "content": order.text}],
        "instruction_id_list": [rule.name for rule in order.rules],
        "kwargs": [rule.arguments for rule in order.rules],
    }


def instruction_sample(order: Order, rng: Random, careless_fraction: float) -> dict[str, Any]:
    """Make a training conversation; the reply doesn't think."""
    reply = {"role": "assistant", "content": reply_to(rng, order, careless_fraction).text}
    return {"messages": [{"role": "user", "content": order.text}, reply]}
