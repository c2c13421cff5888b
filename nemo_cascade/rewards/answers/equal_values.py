"""Equality of expressions: by exact value, by value to many digits, or by values at points."""

from fractions import Fraction
from typing import Any

from mpmath import mp

from nemo_cascade.rewards.answers.node import Node, names, number
from nemo_cascade.rewards.answers.values import Evaluation, NoValue, TooLong, exact, point_of

_DIGITS, _NOISE_DIGITS, _PROOF_DIGITS = 50, 150, 300
_POINTS, _TRIED = 4, 12
# A decimal equals an irrational number if it is its rounding to at least so many significant digits.
_FEWEST_DIGITS = 10
_TEN = 10


def same_value(gold: Node, answer: Node) -> bool:
    """Tell whether two expressions are equal wherever both have a value."""
    first, second = exact(gold), exact(answer)
    if first is not None and second is not None:
        return first == second or _rounds(gold, answer) or _rounds(answer, gold)
    if matrix_of(gold) is not None or matrix_of(answer) is not None:
        return _same_matrix(gold, answer)
    variables = names(gold) | names(answer)
    if not variables:
        return (
            _same_constant(gold, answer) or _rounds(gold, answer) or _rounds(answer, gold) or _same_angle(gold, answer)
        )
    if any(len({name.casefold() for name in group}) < len(group) for group in (names(gold), names(answer))):
        renamed = {name: f"{name}{ord(name[0])}" for name in variables}
        gold, answer = substituted(gold, renamed), substituted(answer, renamed)
        variables = names(gold) | names(answer)
    return _same_at_points(gold, answer, variables)


def proportion(gold: Node, answer: Node) -> int:
    """Return the sign of the constant that one expression is of the other, 0 if it is none."""
    ratios = list[Any]()
    with mp.workdps(_DIGITS):
        variables = names(gold) | names(answer)
        for trial in range(_TRIED):
            point = point_of(variables, trial)
            try:
                first, second = Evaluation(point).value(gold), Evaluation(point).value(answer)
            except TooLong:
                return 0
            except NoValue:
                continue
            if not first or not second:
                return 0
            ratios.append(first / second)
            if abs(ratios[-1] - ratios[0]) > mp.mpf(10) ** -30 * abs(ratios[0]):
                return 0
            if len(ratios) == _POINTS:
                break
        if len(ratios) < 2 or mp.im(ratios[0]):
            return 0
        return 1 if ratios[0] > 0 else -1


def value_at(node: Node, point: dict[str, Any]) -> Any:
    """Return an expression's value to fifty digits; None if it has none that is real."""
    with mp.workdps(_DIGITS):
        try:
            value = Evaluation(point).value(node)
        except NoValue:
            return None
        return None if mp.im(value) else mp.re(value)


def substituted(node: Node, renamed: dict[str, str]) -> Node:
    """Return an expression with other names for some of its symbols."""
    if node.kind == "sym" and node.text in renamed:
        return Node("sym", text=renamed[node.text])
    if node.kind == "letters" and any(letter in renamed for letter in node.text):
        letters = (Node("const" if letter in "ei" else "sym", text=renamed.get(letter, letter)) for letter in node.text)
        return Node("mul", tuple(letters))
    if not node.parts:
        return node
    return Node(node.kind, tuple(substituted(part, renamed) for part in node.parts), node.text, node.value)


def difference(left: Node, right: Node) -> Node:
    """Return left - right."""
    return Node("add", (left, Node("neg", (right,))))


def matrix_of(node: Node) -> list[list[Node]] | None:
    """Return the entries of a matrix, or of a sum or product of such; None if it is none."""
    if node.kind == "matrix":
        rows = [list(row.parts) for row in node.parts]
        return rows if rows and all(len(row) == len(rows[0]) for row in rows) else None
    if node.kind == "neg":
        inside = matrix_of(node.parts[0])
        return inside and [[Node("neg", (entry,)) for entry in row] for row in inside]
    if node.kind == "pow" and node.parts[1].kind == "sym" and node.parts[1].text in ("T", "top"):
        inside = matrix_of(node.parts[0])
        return inside and [list(column) for column in zip(*inside, strict=True)]
    if node.kind == "add":
        parts = [matrix_of(part) for part in node.parts]
        matrices = [part for part in parts if part is not None]
        shapes = {(len(part), len(part[0])) for part in matrices}
        if len(matrices) < len(parts) or len(shapes) != 1:
            return None
        rows_of = zip(*matrices, strict=True)
        return [[Node("add", entries) for entries in zip(*rows, strict=True)] for rows in rows_of]
    if node.kind in ("mul", "div"):
        return _product(node)
    return None


def _product(node: Node) -> list[list[Node]] | None:
    result: list[list[Node]] | None = None
    factors = list[Node]()
    for place, part in enumerate(node.parts):
        matrix = matrix_of(part)
        if matrix is None:
            factors.append(Node("div", (number(1), part)) if node.kind == "div" and place else part)
        elif node.kind == "div" and place:
            return None
        elif result is None:
            result = matrix
        elif len(result[0]) != len(matrix):
            return None
        else:
            columns = list(zip(*matrix, strict=True))
            result = [
                [Node("add", tuple(Node("mul", pair) for pair in zip(row, column, strict=True))) for column in columns]
                for row in result
            ]
    if result is None or not factors:
        return result
    return [[Node("mul", (*factors, entry)) for entry in row] for row in result]


def _same_matrix(gold: Node, answer: Node) -> bool:
    first, second = matrix_of(gold), matrix_of(answer)
    if first is None or second is None or len(first) != len(second) or len(first[0]) != len(second[0]):
        return False
    return all(same_value(a, b) for rows in zip(first, second, strict=True) for a, b in zip(*rows, strict=True))


def _rounds(literal: Node, node: Node) -> bool:
    """Tell whether one is the other's value rounded, or cut, to ten or more significant digits."""
    if (decimal := _decimal(literal)) is None:
        return False
    said, last_place = decimal
    value = exact(node)
    if value is not None:
        return _decimal(node) is None and abs(value - said) < last_place  # two decimals are equal or not
    found = value_at(node, {})
    if found is None:
        return False
    with mp.workdps(_DIGITS):
        apart = abs(found - mp.mpf(said.numerator) / said.denominator)
        return bool(apart < mp.mpf(last_place.numerator) / last_place.denominator)


def _decimal(node: Node) -> tuple[Fraction, Fraction] | None:
    """Return what a decimal of many digits says and what its last place counts; None if a node is no such decimal.

    It may be negative, and may stand before a power of ten.
    """
    sign, scale = 1, Fraction(1)
    while node.kind == "neg":
        node, sign = node.parts[0], -sign
    if node.kind == "mul" and len(node.parts) == 2 and node.parts[1].kind == "pow":
        power = exact(node.parts[1])
        if power is None or exact(node.parts[1].parts[0]) != _TEN:
            return None
        node, scale = node.parts[0], power
    if node.kind != "num" or node.value is None or "." not in node.text:
        return None
    if len(node.text.replace(".", "").lstrip("0")) < _FEWEST_DIGITS:
        return None
    return sign * node.value * scale, scale / 10 ** len(node.text.partition(".")[2])


def _evaluated(node: Node, digits: int, radians: bool = False) -> Any:
    with mp.workdps(digits):
        return Evaluation({}, radians).value(node)


def _same_constant(gold: Node, answer: Node, radians: bool = False) -> bool:
    try:
        first, second = _evaluated(gold, _DIGITS, radians), _evaluated(answer, _DIGITS, radians)
        with mp.workdps(_PROOF_DIGITS + 10):
            apart, scale = abs(first - second), max(abs(first), abs(second))
            if apart > mp.mpf(10) ** -35 * scale:
                # What is left of numbers that cancel is noise if it gets smaller with more digits.
                if apart > mp.mpf(10) ** -20:
                    return False
                finer = abs(_evaluated(gold, _NOISE_DIGITS, radians) - _evaluated(answer, _NOISE_DIGITS, radians))
                return bool(finer < apart * mp.mpf(10) ** -60)
            first, second = _evaluated(gold, _PROOF_DIGITS, radians), _evaluated(answer, _PROOF_DIGITS, radians)
            return bool(abs(first - second) <= mp.mpf(10) ** (40 - _PROOF_DIGITS) * max(1, scale))
    except NoValue:
        return False


def _same_angle(gold: Node, answer: Node) -> bool:
    r"""Tell whether one is the other in degrees: `60^\circ` is \pi/3."""
    degrees = [any(part.kind == "deg" for part in node.walk()) for node in (gold, answer)]
    circle = [
        any((part.kind, part.text) == ("const", "pi") or part.text.startswith("arc") for part in node.walk())
        for node in (gold, answer)
    ]
    if degrees[0] == degrees[1] or not circle[degrees[0]]:
        return False
    return _same_constant(gold, answer, radians=True)


def _same_at_points(gold: Node, answer: Node, variables: frozenset[str]) -> bool:
    """Compare two expressions at points where both are real; where there are none, at points where they are complex."""
    real = complex_too = 0
    with mp.workdps(_DIGITS):
        for trial in range(_TRIED):
            point = point_of(variables, trial)
            evaluations = Evaluation(point), Evaluation(point)
            try:
                first, second = evaluations[0].value(gold), evaluations[1].value(answer)
            except TooLong:
                return False
            except NoValue:
                continue
            equal = abs(first - second) <= mp.mpf(10) ** -30 * max(abs(first), abs(second), mp.mpf(10) ** -5)
            if evaluations[0].turned_complex or evaluations[1].turned_complex:
                complex_too += 1 if equal else -_TRIED
                continue
            if not equal:
                return False
            real += 1
            if real == _POINTS:
                return True
        if real:
            return real >= 2
        if complex_too >= 2:
            return True
        return _same_at_integers(gold, answer, variables)


def _same_at_integers(gold: Node, answer: Node, variables: frozenset[str]) -> bool:
    r"""Compare expressions that are real only at integers, such as `(-1)^n`."""
    found = 0
    for trial in range(1, 8):
        point = {name: mp.mpf(trial + place) for place, name in enumerate(sorted(variables))}
        try:
            first, second = Evaluation(point).value(gold), Evaluation(point).value(answer)
        except TooLong:
            return False
        except NoValue:
            continue
        if mp.im(first) or mp.im(second) or abs(first - second) > mp.mpf(10) ** -30 * max(1, abs(first)):
            return False
        found += 1
    return found >= 4
