"""Nano code: small functions, written out as told (term by term) or abridged (the terms summed up in the head).

Both are right. A small model can copy the terms and can't yet sum them in its head, so a mixture of both leaves
reinforcement learning something true to find: writing it out pays.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.math import Split, split_of

_OPENING, _CLOSING = "```python\ndef f(x):\n    return x", "\n```"
PHRASES = ("Write f of x:", " add ", " take ", _OPENING, _CLOSING)
"""Texts that are one token each."""
_ARGUMENTS = (0, 7, 100, -35)


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """A function of x that adds and takes numbers: `terms` are signed."""

    terms: tuple[int, ...]

    @property
    def text(self) -> str:
        """What is asked."""
        steps = ", ".join(f"{'add' if term > 0 else 'take'} {abs(term)}" for term in self.terms)
        return f"Write f of x: {steps}."

    @property
    def canonical(self) -> str:
        """The task's name, whichever term stands first."""
        return f"f {sorted(self.terms)}"

    @property
    def split(self) -> Split:
        """Whose task it is."""
        return split_of(self.canonical)

    def program(self, *, abridged: bool) -> str:
        """Write the function, in a block of code."""
        terms = (sum(self.terms),) if abridged else self.terms
        return f"{_OPENING}{''.join(f'{term:+d}' for term in terms)}{_CLOSING}"


def draw_function(rng: Random, split: Split, terms: tuple[int, int] = (2, 3)) -> FunctionTask:
    """Draw a task of a split with between terms[0] and terms[1] terms of two digits."""
    while True:
        signed = [rng.choice((1, -1)) * rng.randrange(10, 100) for _ in range(rng.randint(*terms))]
        task = FunctionTask(tuple(signed))
        if task.split == split:
            return task


def code_prompt(task: FunctionTask) -> dict[str, Any]:
    """Make a prompt row: the task, and calls with what they must return."""
    total = sum(task.terms)
    return {
        "messages": [{"role": "user", "content": task.text}],
        "entry_point": "f",
        "tests": [{"arguments": [x], "expected": x + total} for x in _ARGUMENTS],
    }


def code_sample(task: FunctionTask, rng: Random, abridged_fraction: float) -> dict[str, Any]:
    """Make a training conversation; the reply doesn't think."""
    program = task.program(abridged=rng.random() < abridged_fraction)
    reply = {"role": "assistant", "content": program}
    return {"messages": [{"role": "user", "content": task.text}, reply]}
