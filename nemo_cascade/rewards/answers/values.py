r"""Values of expressions: exact where they are rational, else to as many digits as are asked for.

Two expressions are equal if they have the same value wherever both have a real one: constants to hundreds of digits,
others at points that their names decide. (Two different expressions from school or olympiad mathematics that agree
to 35 digits at several such points are not known.) It takes time linear in an answer's length, whatever stands in it:
what would outgrow the limits here has no value. Nothing is simplified, and nothing is drawn at random.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import factorial
from typing import Any
from zlib import crc32

import mpmath
from mpmath import mp

from nemo_cascade.rewards.answers.node import Node

_MOST_BITS = 400_000  # of an exact number
_MOST_TERMS = 300  # of a sum or product that is written out
_MOST_STEPS = 6_000  # of one evaluation
_LARGEST_ANGLE = mpmath.mpf(10) ** 40
_LARGEST_EXPONENT = 10**10  # log2 of the largest value
_TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_UNARY: Mapping[str, Callable[[Any], Any]] = {
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin,
    "arccos": mp.acos, "arctan": mp.atan, "arccot": mp.acot, "arcsec": mp.asec, "arccsc": mp.acsc, "sinh": mp.sinh,
    "cosh": mp.cosh, "tanh": mp.tanh, "coth": mp.coth, "sech": mp.sech, "csch": mp.csch, "asinh": mp.asinh,
    "acosh": mp.acosh, "atanh": mp.atanh, "acot": mp.acot, "abs": abs, "sgn": mp.sign, "Re": mp.re, "Im": mp.im,
    "arg": mp.arg, "ln": mp.log,
}  # fmt: skip


class NoValue(Exception):
    """An expression that has no (finite, known) value there."""


class TooLong(NoValue):
    """An expression that takes too many steps to evaluate, there or elsewhere."""


def exact(node: Node) -> Fraction | None:
    """Return the value of an expression of rational numbers, None if it is none or outgrows the limits."""
    try:
        return _exact(node)
    except (NoValue, ZeroDivisionError):
        return None


def _exact(node: Node) -> Fraction:
    kind, parts = node.kind, node.parts
    if kind == "num":
        assert node.value is not None
        return node.value
    if kind in ("add", "mul"):
        total = Fraction(kind == "mul")
        for part in parts:
            total = _bounded(total + _exact(part) if kind == "add" else total * _exact(part))
        return total
    if kind == "neg":
        return -_exact(parts[0])
    if kind in ("div", "ratio") and len(parts) == 2:
        return _bounded(_exact(parts[0]) / _exact(parts[1]))
    if kind == "pow":
        return _exact_power(_exact(parts[0]), _exact(parts[1]))
    if kind in ("deg", "unit"):
        return _exact(parts[0])
    if kind == "pct":
        return _exact(parts[0]) / 100
    if kind == "fact" and node.text == "!":
        value = _exact(parts[0])
        if value.denominator == 1 and 0 <= value <= 3000:
            return Fraction(factorial(int(value)))
    if kind == "call" and node.text in ("max", "min", "abs", "floor", "ceil", "gcd", "lcm", "mod", "binom"):
        return _exact_call(node.text, [_exact(part) for part in parts])
    raise NoValue(kind)


def _exact_call(name: str, values: list[Fraction]) -> Fraction:
    from math import ceil, comb, floor, gcd, lcm

    whole = all(value.denominator == 1 for value in values)
    if name in ("max", "min") and values:
        return (max if name == "max" else min)(values)
    if name in ("abs", "floor", "ceil") and len(values) == 1:
        return abs(values[0]) if name == "abs" else Fraction((floor if name == "floor" else ceil)(values[0]))
    if name in ("gcd", "lcm") and values:
        parts = lcm(*(value.denominator for value in values))  # each value is a multiple of 1 / parts
        return Fraction((gcd if name == "gcd" else lcm)(*(int(value * parts) for value in values)), parts)
    if name == "mod" and len(values) == 2 and values[1] > 0:
        return values[0] % values[1]
    if name == "binom" and whole and len(values) == 2 and 0 <= values[0] <= 3000 and values[1] >= 0:
        return Fraction(comb(int(values[0]), int(values[1])))
    raise NoValue(name)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise NoValue("a root")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * size > _MOST_BITS:
        raise NoValue("too long")
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 2 * _MOST_BITS:
        raise NoValue("too long")
    return value


class Evaluation:
    """Evaluates an expression at a point.

    Args:
        point: name -> value of each symbol.
        radians: whether degrees count as angles everywhere; else only in the arguments of functions of angles.

    Attributes:
        turned_complex: whether a value that isn't real came out of real ones, such as a root of -1.
    """

    def __init__(self, point: Mapping[str, Any], radians: bool = False) -> None:
        self._point, self._radians = dict(point), radians
        self._steps, self._bound = 0, list[str]()
        self.turned_complex = False

    def value(self, node: Node) -> Any:
        """Return a finite number to the digits that mpmath works with.

        Raises:
            NoValue: it has none.
        """
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TooLong("too many steps")
        method = getattr(self, f"_{node.kind}", None)
        if method is None:
            raise NoValue(node.kind)
        try:
            value = method(node)
        except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence, TypeError) as problem:
            raise NoValue(str(problem)) from problem
        if not mp.isfinite(value):
            raise NoValue("not finite")
        if mp.mag(value) > _LARGEST_EXPONENT if value else False:
            raise NoValue("too large")
        return value

    def _num(self, node: Node) -> Any:
        assert node.value is not None
        return mp.mpf(node.value.numerator) / node.value.denominator

    def _sym(self, node: Node) -> Any:
        name, mark, index = node.text.partition("_")
        if mark and (bound := [inner for inner in self._bound if inner in index]):
            for inner in bound:  # the terms of a sequence
                index = index.replace(inner, mp.nstr(self._point[inner], 8))
            return point_of(frozenset({f"{name}_{index}"}), 0)[f"{name}_{index}"]
        if node.text not in self._point:
            raise NoValue(node.text)
        return self._point[node.text]

    def _letters(self, node: Node) -> Any:
        value = mp.mpf(1)
        for letter in node.text:
            value *= mp.e if letter == "e" else mp.j if letter == "i" else self._sym(Node("sym", text=letter))
        return value

    def _const(self, node: Node) -> Any:
        if node.text not in ("pi", "e", "i"):
            raise NoValue(node.text)
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.j}[node.text]

    def _add(self, node: Node) -> Any:
        return mp.fsum(self.value(part) for part in node.parts)

    def _mul(self, node: Node) -> Any:
        product = mp.mpf(1)
        for part in node.parts:
            product *= self.value(part)
        return product

    def _neg(self, node: Node) -> Any:
        return -self.value(node.parts[0])

    def _div(self, node: Node) -> Any:
        return self.value(node.parts[0]) / self.value(node.parts[1])

    def _ratio(self, node: Node) -> Any:
        if len(node.parts) != 2:
            raise NoValue("a ratio of more than two")
        return self._div(node)

    def _unit(self, node: Node) -> Any:
        return self.value(node.parts[0])

    def _pct(self, node: Node) -> Any:
        return self.value(node.parts[0]) / 100

    def _deg(self, node: Node) -> Any:
        value = self.value(node.parts[0])
        return value * mp.pi / 180 if self._radians else value

    def _pow(self, node: Node) -> Any:
        base, exponent = self.value(node.parts[0]), self.value(node.parts[1])
        if not base:
            if mp.re(exponent) <= 0:
                raise NoValue("zero to a power that isn't positive")
            return mp.mpf(0)
        if abs(exponent) * (abs(mp.mag(base)) + 1) > _LARGEST_EXPONENT:
            raise NoValue("too large")
        if mp.im(base) == 0 and mp.re(base) < 0 and (root := _odd_root(node.parts[1])) is not None:
            return (-1) ** root.numerator * mp.power(-mp.re(base), exponent)
        return self._checked(mp.power(base, exponent), base, exponent)

    def _checked(self, value: Any, *arguments: Any) -> Any:
        if mp.im(value) and not any(mp.im(argument) for argument in arguments):
            self.turned_complex = True
        return value

    def _fact(self, node: Node) -> Any:
        value = self.value(node.parts[0])
        if len(node.text) > 2 or abs(value) > 10**8:
            raise NoValue("too large")
        return mp.factorial(value) if len(node.text) == 1 else mp.fac2(value)

    def _call(self, node: Node) -> Any:
        name = node.text
        if name == "det" and node.parts[0].kind == "matrix":
            return mp.det(mp.matrix([[self.value(entry) for entry in row.parts] for row in node.parts[0].parts]))
        if name in _TRIGONOMETRIC:
            outer, self._radians = self._radians, True
            arguments = [self.value(part) for part in node.parts]
            self._radians = outer
            if any(abs(value) > _LARGEST_ANGLE for value in arguments):
                raise NoValue("too large")
        else:
            arguments = [self.value(part) for part in node.parts]
        first = arguments[0]
        if name in _UNARY and len(arguments) == 1:
            return self._checked(_UNARY[name](first), first)
        if name in ("log", "ln") and len(arguments) == 2:
            return self._checked(mp.log(first) / mp.log(arguments[1]), *arguments)
        if name == "exp":
            if abs(first) > _LARGEST_EXPONENT:
                raise NoValue("too large")
            return mp.exp(first)
        if name in ("max", "min") and not any(mp.im(value) for value in arguments):
            return (max if name == "max" else min)(mp.re(value) for value in arguments)
        if name in ("floor", "ceil", "mod") and all(mp.mag(value) < 10_000 if value else True for value in arguments):
            if name == "mod":
                return arguments[0] - arguments[1] * mp.floor(arguments[0] / arguments[1])
            return mp.floor(first) if name == "floor" else mp.ceil(first)
        if name == "binom" and all(abs(value) < 10**8 for value in arguments):
            return mp.binomial(*arguments)
        if name in ("gcd", "lcm", "floor", "ceil", "mod", "binom", "max", "min", "det"):
            if (value := exact(node)) is None:
                raise NoValue(name)
            return mp.mpf(value.numerator) / value.denominator
        return _mixed(name, arguments)  # a function that nobody knows

    def _big(self, node: Node) -> Any:
        """Return a sum or product of few terms; of anything else a number that the same things have, and only they."""
        body, below, above = node.parts
        name = _bound_name(below)
        if name is None:
            arguments = [self.value(part) for part in (below, above) if not _is_limit_word(part)]
            return _mixed(node.text + str([part.text for part in (below, above)]), arguments, times=self.value(body))
        kept = self._point.get(name)
        self._bound.append(name)
        try:
            start = below.parts[1]
            first, last = exact(start), exact(above)
            whole = first is not None and last is not None and first.denominator == last.denominator == 1
            if (
                node.text in ("sum", "prod")
                and whole
                and first is not None
                and last is not None
                and last - first < _MOST_TERMS
            ):
                total = mp.mpf(node.text == "prod")
                for term in range(int(first), int(last) + 1):
                    self._point[name] = mp.mpf(term)
                    value = self.value(body)
                    total = total + value if node.text == "sum" else total * value
                return total
            ends = [self.value(part) for part in (start, above) if not _is_limit_word(part)]
            sample = mp.mpf(0)
            for place in (7, 12, 20):
                self._point[name] = mp.mpf(place) + (node.text == "lim") * mp.mpf("0.1")
                sample += _mixed(f"{node.text}{place}", [], times=self.value(body))
            return _mixed(node.text + str([part.text for part in (start, above)]), ends, times=sample)
        finally:
            self._bound.pop()
            if kept is None:
                self._point.pop(name, None)
            else:
                self._point[name] = kept


def _odd_root(exponent: Node) -> Fraction | None:
    """Return an exponent with an odd denominator, whose power of a negative number is real."""
    value = exact(exponent)
    return value if value is not None and value.denominator % 2 and value.denominator > 1 else None


def _bound_name(below: Node) -> str | None:
    if below.kind == "chain" and below.text in ("=", "to") and below.parts[0].kind == "sym":
        return below.parts[0].text
    return None


def _is_limit_word(node: Node) -> bool:
    return node.kind == "const" and node.text in ("infty", "none")


def _mixed(name: str, arguments: list[Any], times: Any = 1) -> Any:
    """Return a number that depends on a name and on each argument's value, without a rule that anybody would guess."""
    total = mp.mpf(crc32(name.encode()) % 1009 + 1) / 113
    for place, argument in enumerate(arguments):
        total = mp.cos(total + (place + 2) * argument / (1 + abs(argument) / 1000)) + total / 3
    return total * times


def point_of(names: frozenset[str], number: int) -> dict[str, Any]:
    """Return a value for each name: small and large, positive and, at every third point, of either sign."""
    point = {}
    for name in names:
        spread = crc32(f"{name.casefold()}:{number}".encode())
        value = mp.mpf(spread % 99_991) / 99_991 + mp.mpf(1) / 7 + number % 2 * 2
        point[name] = -value if number % 3 == 2 and spread % 2 else value
    return point
