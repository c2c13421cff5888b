"""Nano multiple choice: which of four words is of a kind; the answer is one letter.

A reply that first says the word and then its letter is always right. Most replies to learn from give a letter at once,
drawn by chance: reinforcement learning finds out that saying the word pays.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.math import Split, split_of

# fmt: off
KINDS = {
    "an animal": ("ant", "bird", "cat", "dog", "duck", "fish", "frog", "goat", "wolf"),
    "a food": ("apple", "cake", "corn", "egg", "milk"),
    "a place": ("hill", "lake", "river", "road"),
    "a vehicle": ("boat", "bus", "car", "ship"),
    "a tool": ("bag", "fork", "key", "lamp", "pan", "vase"),
}
# fmt: on
LETTERS = "ABCD"
_SAID = "It is"
PHRASES = (*(f"Which is {kind}?" for kind in KINDS), *(f"\n{letter}:" for letter in LETTERS), _SAID)
"""Texts that are one token each."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A question: the kind that is asked for, and four words, of which one is of it.

    Attributes:
        kind: of `KINDS`.
        options: in the order of the letters.
        right: place of the right one.
    """

    kind: str
    options: tuple[str, ...]
    right: int

    @property
    def text(self) -> str:
        """The question as it is written."""
        listed = (f"\n{letter}: {option}" for letter, option in zip(LETTERS, self.options, strict=True))
        return f"Which is {self.kind}?{''.join(listed)}"

    @property
    def canonical(self) -> str:
        """The question's name: the same words in another order are the same question."""
        return f"{self.kind}: {' '.join(sorted(self.options))}"

    @property
    def split(self) -> Split:
        """Whose question it is."""
        return split_of(self.canonical)


def draw_choice(rng: Random, split: Split) -> Choice:
    """Draw a question of a split."""
    while True:
        kind = rng.choice(list(KINDS))
        others = [word for name, words in KINDS.items() if name != kind for word in words]
        options, right = rng.sample(others, len(LETTERS)), rng.randrange(len(LETTERS))
        options[right] = rng.choice(KINDS[kind])
        choice = Choice(kind, tuple(options), right)
        if choice.split == split:
            return choice


def choice_prompt(choice: Choice) -> dict[str, Any]:
    """Make a prompt row: the question, and for the verifier the options and the right letter."""
    return {
        "messages": [{"role": "user", "content": choice.text}],
        "options": [{letter: option} for letter, option in zip(LETTERS, choice.options, strict=True)],
        "expected_answer": LETTERS[choice.right],
    }


def choice_sample(choice: Choice, rng: Random, guessed_fraction: float) -> dict[str, Any]:
    """Make a training conversation; in the given share of cases the reply is a letter drawn by chance."""
    if rng.random() < guessed_fraction:
        reply = f"\\boxed{{{rng.choice(LETTERS)}}}"
    else:
        reply = f"{_SAID} {choice.options[choice.right]}\n\\boxed{{{LETTERS[choice.right]}}}"
    return {"messages": [*choice_prompt(choice)["messages"], {"role": "assistant", "content": reply}]}
