"""Nodes made of what a parser has read: names, sums, the arguments of a function, numbers in a base."""

from fractions import Fraction

from nemo_cascade.rewards.answers.node import Node, Unreadable, number

_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_LARGEST_BASE = 36
_MIXED_LIMIT = 1 << 62


def symbol(name: str) -> Node:
    """Return a name's node; e and i are constants."""
    return Node("const", text=name) if name in ("e", "i") else Node("sym", text=name)


def letters(run: str) -> Node:
    """Return the node of a run of letters, of one letter its symbol."""
    return symbol(run) if len(run) == 1 else Node("letters", text=run)


def marked(base: Node, mark: str) -> Node:
    """Return the name that a mark behind another makes: `A^+`."""
    return Node("sym", text=f"{base.text}^{mark}")


def primed(base: Node, primes: int) -> Node:
    """Mark a name, or count a number as minutes or seconds of an angle.

    Raises:
        Unreadable: it is neither.
    """
    if base.kind == "num" and primes < 3:
        return Node("deg", (Node("div", (base, number(60**primes))),))
    if base.kind not in ("sym", "letters", "call"):
        raise Unreadable("a prime behind no name")
    return Node("call" if base.kind == "call" else "sym", base.parts, base.text + "'" * primes)


def added(terms: list[Node]) -> Node:
    """Return the sum of terms, one term as it is."""
    return terms[0] if len(terms) == 1 else Node("add", tuple(terms))


def multiplied(factors: list[Node]) -> Node:
    """Return the product of factors, one factor as it is."""
    return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))


def call_of(name: str, *arguments: Node) -> Node:
    """Return a function's value at its arguments."""
    return Node("call", arguments, name)


def arguments_of(inside: Node) -> tuple[Node, ...]:
    """Return the arguments that a function's bracket holds."""
    return inside.parts if inside.kind in ("list", "tuple", "set") else (inside,)


def is_fraction(node: Node) -> bool:
    """Tell whether a node is a fraction of two whole numbers, as a mixed number has."""
    return node.kind == "div" and all(
        part.kind == "num" and not part.text and part.value is not None and 0 < part.value < _MIXED_LIMIT
        for part in node.parts
    )


def is_minus_one(node: Node) -> bool:
    """Tell whether a node is -1."""
    return node.kind == "neg" and node.parts[0].kind == "num" and node.parts[0].value == 1


def with_index_i(node: Node) -> Node:
    """Return an expression where i is an index, no imaginary unit."""
    if node == Node("const", text="i"):
        return Node("sym", text="i")
    return Node(node.kind, tuple(with_index_i(part) for part in node.parts), node.text, node.value)


def in_base(digits: str, base_text: str) -> Node:
    """Return the number that digits are in a base; where there is no such number, a name."""
    word = base_text.removeprefix("base").strip("()").casefold()
    base = _BASES.index(word) + 2 if word in _BASES else int(word) if word.isdecimal() and len(word) < 3 else 0
    whole, _, decimals = digits.partition(".")
    if not 2 <= base <= _LARGEST_BASE or any(int(digit, 36) >= base for digit in whole + decimals):
        return Node("sym", text=f"{digits}_{base_text}")
    return number(Fraction(int(whole + decimals or "0", base), base ** len(decimals)))
