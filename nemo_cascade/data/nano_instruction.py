"""Nano instruction following: short orders about short lists of words, each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.data.nano_math import Split, split_of

WORDS = ("apple", "bird", "boat", "book", "cat", "cup", "dog", "fish", "moon", "river", "sun", "tree")
_TIMES = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class Order:
    """An instruction and the only answer that follows it.

    Attributes:
        kind: which rule.
        text: what is asked.
        expected: the answer.
    """

    kind: str
    text: str
    expected: str

    @property
    def canonical(self) -> str:
        """The order's name."""
        return self.text

    @property
    def split(self) -> Split:
        """Whose order it is."""
        return split_of(self.canonical)


def _repeat(rng: Random, words: list[str]) -> tuple[str, str]:
    times = rng.choice(list(_TIMES))
    return f"Repeat {_TIMES[times]} times: {words[0]}", " ".join([words[0]] * times)


def _list(words: list[str]) -> str:
    return " ".join(words)


_KINDS: dict[str, Callable[[Random, list[str]], tuple[str, str]]] = {
    "repeat": _repeat,
    "copy": lambda _, w: (f"Copy the list: {_list(w)}", _list(w)),
    "upper": lambda _, w: (f"Write in upper case: {_list(w)}", _list(w).upper()),
    "count": lambda _, w: (f"Count the words: {_list(w)}", str(len(w))),
    "first": lambda _, w: (f"Say the first word: {_list(w)}", w[0]),
    "last": lambda _, w: (f"Say the last word: {_list(w)}", w[-1]),
    "comma": lambda _, w: (f"Join with commas: {_list(w)}", ", ".join(w)),
    "reverse": lambda _, w: (f"Reverse the list: {_list(w)}", _list(w[::-1])),
    "sort": lambda _, w: (f"Sort the list: {_list(w)}", _list(sorted(w))),
}
KINDS = tuple(_KINDS)


def draw_order(rng: Random, split: Split, kinds: tuple[str, ...], words: tuple[int, int]) -> Order:
    """Draw an order of a split with between words[0] and words[1] words."""
    while True:
        kind = rng.choice(kinds)
        text, expected = _KINDS[kind](rng, rng.sample(WORDS, rng.randint(*words)))
        order = Order(kind, text, expected)
        if order.split == split:
            return order


def instruction_prompt(order: Order) -> dict[str, Any]:
    """Make a prompt row: the order, and the rule for the verifier."""
    return {
        "messages": [{"role": "user", "content": order.text}],
        "instruction": {"kind": "exact", "expected": order.expected},
        "constraint": {"kind": order.kind},
    }


def instruction_sample(order: Order) -> dict[str, Any]:
    """Make a training conversation; the reply doesn't think."""
    question = {"role": "user", "content": order.text}
    return {"messages": [question, {"role": "assistant", "content": order.expected}]}
