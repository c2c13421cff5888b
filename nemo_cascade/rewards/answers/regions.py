r"""Sets of real numbers: intervals, inequalities in one variable, what they make together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mpmath import mp

from nemo_cascade.rewards.answers.equal_values import difference, same_value, value_at
from nemo_cascade.rewards.answers.node import Node, names, number

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_NEAR = mp.mpf(10) ** -30
_MOST_PIECES = 64
_MOST_MEMBERS = 100  # of a set of integers that is written out
_SAMPLES = (mp.mpf("0.37"), mp.mpf("1.93"), mp.mpf("-2.11"))


@dataclass(frozen=True, slots=True)
class End:
    """One end of an interval: its value, the expression it came from (None: computed), whether it belongs to it."""

    value: Any
    closed: bool
    node: Node | None = None


Piece = tuple[End, End]
Region = tuple[Piece, ...]
_LOWEST, _HIGHEST = End(mp.mpf("-inf"), False), End(mp.mpf("inf"), False)
_ALL: Region = ((_LOWEST, _HIGHEST),)


def same_region(gold: Node, answer: Node) -> bool | None:
    """Tell whether two answers are the same set of reals; None if one of them is none."""
    if not (_is_region(gold) or _is_region(answer)):
        return None
    first, second = region_of(gold), region_of(answer)
    if first is None or second is None:
        return None
    apart = _variables(gold), _variables(answer)
    if apart[0] and apart[1] and {name.casefold() for name in apart[0]} != {name.casefold() for name in apart[1]}:
        return False
    if len(first) != len(second):
        return False
    return all(
        _same_end(a, b) for pieces in zip(first, second, strict=True) for a, b in zip(pieces[0], pieces[1], strict=True)
    )


def _is_region(node: Node) -> bool:
    """Tell whether an answer can only be meant as a set of reals."""
    if node.kind in ("union", "meet", "minus", "builder"):
        return True
    if node.kind == "const":
        return node.text == "R"
    if node.kind == "tuple":
        return node.text != "()" or any(part.kind == "const" and part.text == "infty" for part in node.walk())
    if node.kind == "chain":
        return any(sign in node.text.split() for sign in ("<", ">", "<=", ">=", "!=", "in", "notin"))
    return node.kind == "list" and any(_is_region(part) for part in node.parts if part.kind == "chain")


def _variables(node: Node) -> frozenset[str]:
    if node.kind in ("chain", "list"):
        return names(node) - {""}
    return frozenset()


def _same_end(first: End, second: End) -> bool:
    if first.closed != second.closed:
        return False
    if not mp.isfinite(first.value) or not mp.isfinite(second.value):
        return bool(first.value == second.value)
    if first.node is not None and second.node is not None:
        return same_value(first.node, second.node)
    return bool(abs(first.value - second.value) <= _NEAR * max(1, abs(first.value)))


def region_of(node: Node) -> Region | None:
    """Return the set of reals that an answer is, None if it isn't known to be one."""
    kind, parts = node.kind, node.parts
    if kind == "const":
        return {"R": _ALL, "empty": ()}.get(node.text)
    if kind == "tuple" and len(parts) == 2:
        return _interval(node)
    if kind == "set":
        ends = [_end(part, True) for part in parts]
        return None if None in ends else _union([((end, end),) for end in ends if end is not None])
    if kind in ("union", "meet", "minus"):
        first, second = region_of(_as_set(parts[0])), region_of(_as_set(parts[1]))
        if first is None or second is None:
            return None
        if kind == "union":
            return _union([first, second])
        return _meet(first, second if kind == "meet" else _complement(second))
    if kind == "builder":
        among = _ALL if parts[0].kind != "chain" else region_of(parts[0])
        condition = region_of(parts[1])
        return None if among is None or condition is None else _meet(among, condition)
    if kind == "chain":
        return _solutions(node)
    if kind == "list" and all(part.kind in ("chain", "union", "tuple") for part in parts) and _is_region(node):
        return _listed(node)
    return None


def _listed(node: Node) -> Region | None:
    regions = [region_of(part) for part in node.parts]
    known = [region for region in regions if region is not None]
    if len(known) < len(regions) or len({names(part) for part in node.parts if part.kind == "chain"}) > 1:
        return None
    if node.text == "or":
        return _union(known)
    together = known[0]
    for region in known[1:]:
        together = _meet(together, region)
    return together or (_union(known) if node.text != "and" else ())


def listed_integers(builder: Node) -> Node | None:
    r"""Return the members of `\{x \in \mathbb{Z} \mid -1 < x < 3\}`; None of a set that isn't one of few integers."""
    parts = [inner for part in builder.parts for inner in (part.parts if part.kind in ("list", "where") else (part,))]
    among = [part.parts[1].text for part in parts if part.kind == "chain" and part.text == "in"]
    rest = [part for part in parts if part.kind == "chain" and part.text != "in"]
    if not among or not set(among) <= {"N", "Z"} or not rest:
        return None
    region = region_of(rest[0] if len(rest) == 1 else Node("list", tuple(rest), "and"))
    if "N" in among and region is not None:
        region = _meet(region, ((End(mp.mpf(0), True), _HIGHEST),))
    if not region or not all(mp.isfinite(end.value) for piece in region for end in piece):
        return None
    if sum(high.value - low.value for low, high in region) > _MOST_MEMBERS:
        return None
    numbers = list[int]()
    for low, high in region:
        first, last = int(mp.ceil(low.value)), int(mp.floor(high.value))
        numbers += range(
            first + (first == low.value and not low.closed), last + 1 - (last == high.value and not high.closed)
        )
    return Node("set", tuple(_integer(value) for value in numbers)) if numbers else Node("const", text="empty")


def _integer(value: int) -> Node:
    return Node("neg", (number(-value),)) if value < 0 else number(value)


def _end(node: Node, closed: bool) -> End | None:
    sign, inside = 1, node
    while inside.kind == "neg":
        sign, inside = -sign, inside.parts[0]
    if inside.kind == "const" and inside.text == "infty":
        return End(mp.mpf("inf") * sign, False)
    value = None if names(node) else value_at(node, {})
    return None if value is None else End(value, closed, node)


def _interval(node: Node) -> Region | None:
    low, high = _end(node.parts[0], node.text[0] == "["), _end(node.parts[1], node.text[1] == "]")
    if low is None or high is None or low.value > high.value:
        return None
    if low.value == high.value:
        return ((low, high),) if low.closed and high.closed else None
    return ((low, high),)


def _solutions(chain: Node) -> Region | None:
    signs = chain.text.split()
    if signs in (["in"], ["notin"]):
        inside = region_of(_as_set(chain.parts[1]))
        return inside if inside is None or signs == ["in"] else _complement(inside)
    together: Region = _ALL
    for left, sign, right in zip(chain.parts, signs, chain.parts[1:], strict=False):
        compared = _compared(left, sign, right)
        if compared is None:
            return None
        together = _meet(together, compared)
    return together


def _as_set(node: Node) -> Node:
    """Return the set that braces without their backslashes are."""
    return (
        node if node.kind not in ("num", "neg", "list") else Node("set", node.parts if node.kind == "list" else (node,))
    )


def _compared(left: Node, sign: str, right: Node) -> Region | None:
    if sign not in _FLIPPED:
        return None
    if not names(left):
        left, right, sign = right, left, _FLIPPED[sign]
    if names(right) and not names(left):
        return None
    bare = left.kind in ("sym", "letters") or (left.kind == "call" and left.text[0] in "fgFGP")
    if bare and not names(right):
        end = _end(right, sign in ("<=", ">=", "=", "!="))
        return None if end is None else _ray(end, sign)
    if left.kind == "call" and left.text == "abs" and not names(right) and sign in ("<", "<=", ">", ">="):
        below = _compared(left.parts[0], sign, right)
        above = _compared(left.parts[0], _FLIPPED[sign], Node("neg", (right,)))
        if below is None or above is None:
            return None
        return _meet(below, above) if sign in ("<", "<=") else _union([below, above])
    return _linear(difference(left, right), sign)


def _ray(end: End, sign: str) -> Region | None:
    if sign in ("<", "<="):
        return ((_LOWEST, end),)
    if sign in (">", ">="):
        return ((end, _HIGHEST),)
    point: Region = ((end, end),)
    return point if sign == "=" else _complement(point)


def _linear(expression: Node, sign: str) -> Region | None:
    """Solve `a x + b` against 0."""
    variables = names(expression)
    if len(variables) != 1:
        return None
    (name,) = variables
    values = [value_at(expression, {name: sample}) for sample in _SAMPLES]
    if any(value is None for value in values):
        return None
    with mp.workdps(50):
        slopes = [(values[n] - values[0]) / (_SAMPLES[n] - _SAMPLES[0]) for n in (1, 2)]
        if abs(slopes[0] - slopes[1]) > _NEAR * max(1, abs(slopes[0])) or abs(slopes[0]) < _NEAR:
            return None
        end = End(_SAMPLES[0] - values[0] / slopes[0], sign in ("<=", ">=", "=", "!="))
        return _ray(end, sign if slopes[0] > 0 else _FLIPPED[sign])


def _before(first: End, second: End) -> bool:
    return (
        bool(first.value < second.value - _NEAR * max(1, abs(second.value)))
        if mp.isfinite(second.value)
        else bool(first.value < second.value)
    )


def _union(regions: Iterable[Region]) -> Region:
    pieces = sorted(
        (piece for region in regions for piece in region), key=lambda piece: (piece[0].value, not piece[0].closed)
    )
    merged: list[Piece] = []
    for low, high in pieces[:_MOST_PIECES]:
        if (
            merged
            and not _before(merged[-1][1], low)
            and (_before(low, merged[-1][1]) or merged[-1][1].closed or low.closed)
        ):
            last_low, last_high = merged[-1]
            if not _before(low, last_low) and not _before(last_low, low) and low.closed:
                last_low = low
            if _before(last_high, high) or (not _before(high, last_high) and high.closed):
                last_high = high
            merged[-1] = last_low, last_high
        else:
            merged.append((low, high))
    return tuple(merged)


def _meet(first: Region, second: Region) -> Region:
    pieces = list[Piece]()
    for a_low, a_high in first:
        for b_low, b_high in second:
            low = b_low if _before(a_low, b_low) or (not _before(b_low, a_low) and not b_low.closed) else a_low
            high = b_high if _before(b_high, a_high) or (not _before(a_high, b_high) and not b_high.closed) else a_high
            if _before(low, high) or (not _before(high, low) and low.closed and high.closed):
                pieces.append((low, high))
    return _union([tuple(pieces)])


def _complement(region: Sequence[Piece]) -> Region:
    pieces, low = list[Piece](), _LOWEST
    for piece_low, piece_high in region:
        if mp.isfinite(piece_low.value):
            pieces.append((low, End(piece_low.value, not piece_low.closed, piece_low.node)))
        if not mp.isfinite(piece_high.value):
            return tuple(pieces)
        low = End(piece_high.value, not piece_high.closed, piece_high.node)
    return (*pieces, (low, _HIGHEST))
