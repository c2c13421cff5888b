"""The tree that an answer is read into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an answer.

    Expressions: `num` (value; text: the literal, of a decimal; parts: the
    numbers that its commas may separate), `sym` (text: its name), `const` (pi, e, i, infty,
    empty, N, Z, Q, R, C), `letters` (text: a run of letters, a product of symbols or a word), `add`, `mul`, `neg`,
    `div`, `pow`, `pm` (text: pm or mp), `call` (text: the function), `fact` (text: its exclamation marks), `deg`,
    `pct`, `matrix` (of `row`s), `big` (text: sum, prod, int, lim; body, then what stands below and above).
    Answers: `list` (text: its separator; value: its other reading as a number with a decimal comma), `tuple` (text: its
    two brackets), `set`, `builder` (a variable or membership, a condition), `union`, `meet`, `minus`, `chain` (text:
    its relation signs, separated by blanks), `ratio`, `unit` (a quantity; text: its unit), `word`, `phrase` (words and
    answers by turns), `cases` (of `row`s), `where` (an answer, its conditions).
    """

    kind: str
    parts: tuple[Node, ...] = ()
    text: str = ""
    value: Fraction | None = None

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def height(self) -> int:
        """Return how many nodes are on the way down to the deepest."""
        tallest, waiting = 0, [(self, 1)]
        while waiting:
            node, height = waiting.pop()
            tallest = max(tallest, height)
            waiting += [(part, height + 1) for part in node.parts]
        return tallest


def number(value: Fraction | int, literal: str = "") -> Node:
    """Return a number's node."""
    return Node("num", text=literal, value=Fraction(value))


def names(node: Node) -> frozenset[str]:
    """Return the names of the symbols in an expression."""
    found: set[str] = set()
    for part in node.walk():
        if part.kind == "sym":
            found.add(part.text)
        elif part.kind == "letters":
            found |= set(part.text) - {"e", "i"}
    return frozenset(found)


class Unreadable(Exception):
    """An answer that can't be read: a reference's fault, or a response's, whoever wrote it."""
