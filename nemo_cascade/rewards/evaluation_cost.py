r"""Say statically what is too costly to evaluate for a final answer: towers of powers, giant factorials, integrals.

The bounds don't look at the clock, so a verdict never depends on how busy the machine is. Each of them grows with the
reference: if that holds a huge power, so may the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_HUGE = 10**9
# Commands that ask for a computation: an answer may hold one only if the reference does.
_OPERATORS = ("\\int", "\\iint", "\\oint", "\\sum", "\\prod", "\\lim", "\\bigcup", "\\bigcap", "\\partial", "\\uparrow")
_POWER = re.compile(r"(?:\^|\*\*)\s*")
_OPERATOR_SIGN = re.compile(r"[-+*/]|\\cdot|\\times|\\frac")
_FACTORIAL = re.compile(r"!+")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)")
_ROOT_INDEX = re.compile(r"\\sqrt\s*\[\s*(\d+)")
_DIGITS = re.compile(r"\d+")
_LETTER = re.compile(r"[a-zA-Z]")


def cost_problem(latex: str, reference: str) -> str | None:
    """Say why an answer may not be evaluated, or None."""
    for name, measure, limit in _LIMITS:
        found, allowed = measure(latex), max(limit, measure(reference))
        if found > allowed:
            return f"{name} {found if found < _HUGE else 'without bound'}, allowed: {allowed}"
    for operator in _OPERATORS:
        if operator in latex and operator not in reference:
            return f"{operator} is left to be computed"
    return None


def _depth(latex: str) -> int:
    depth = deepest = 0
    for char in latex:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest


def _longest_number(latex: str) -> int:
    return max((len(run) for run in _DIGITS.findall(latex)), default=0)


def _powers(latex: str) -> list[tuple[bool, int]]:
    """Return (base is a plain number, upper bound of the exponent) of every power."""
    powers = []
    for match in _POWER.finditer(latex):
        before = latex[: match.start()].rstrip()
        powers.append((before[-1:].isdigit(), _bound(_operand(latex, match.end()))))
    return powers


def _operand(latex: str, start: int) -> str:
    """Return what an exponent sign at `start` applies to, with the powers that are stacked on it."""
    if start < len(latex) and latex[start] in "{(":
        depth = 0
        for end in range(start, len(latex)):
            depth += (latex[end] in "{(") - (latex[end] in "})")
            if depth == 0:
                return latex[start + 1 : end]
        return latex[start + 1 :]
    word = re.match(r"[+-]?[\w.]+(?:\s*(?:\^|\*\*).*)?|.?", latex[start:], re.DOTALL)
    return word.group() if word else ""


def _bound(exponent: str) -> int:
    """Return an upper bound of a numeric exponent; 0 for a symbolic one."""
    if _LETTER.search(exponent.replace("\\cdot", "").replace("\\times", "").replace("\\frac", "")):
        return 0
    numbers = [int(n) if len(n) < 10 else _HUGE for n in _DIGITS.findall(exponent)]
    if "!" in exponent:
        return _HUGE
    if power := _POWER.search(exponent):
        inner = _bound(_operand(exponent, power.end()))
        base = exponent[: power.start()].strip(" {}()")
        if not base.isdigit() or inner > 40 or len(base) > 9:
            return _HUGE
        return int(min(_HUGE, int(base) ** inner))
    if _OPERATOR_SIGN.search(exponent):
        bound = 1
        for number in numbers:
            bound = min(_HUGE, bound * max(number, 2))
        return bound
    return max(numbers, default=0)


def _stacked(latex: str) -> int:
    """Return how many powers stand on top of one another at most."""
    if not (match := _POWER.search(latex)):
        return 0
    operand = _operand(latex, match.end())
    return max(1 + _stacked(operand), _stacked(latex[match.end() + len(operand) :]))


def _number_power(latex: str) -> int:
    return max((bound for numeric, bound in _powers(latex) if numeric), default=0)


def _other_power(latex: str) -> int:
    return max((bound for numeric, bound in _powers(latex) if not numeric), default=0)


def _power_digits(latex: str) -> int:
    return _number_power(latex) * min(_longest_number(latex), 1000)


def _factorial(latex: str) -> int:
    largest = 0
    for match in _FACTORIAL.finditer(latex):
        if len(match.group()) > 2:
            return _HUGE
        largest = max(largest, _bound(_operand_before(latex, match.start())))
    return largest


def _operand_before(latex: str, end: int) -> str:
    """Return what a factorial sign at `end` applies to."""
    before = latex[:end].rstrip()
    if before[-1:] not in ("}", ")"):
        word = re.search(r"[\w.]+$", before)
        return word.group() if word else ""
    depth = 0
    for start in range(len(before) - 1, -1, -1):
        depth += (before[start] in "})") - (before[start] in "{(")
        if depth == 0:
            return before[start + 1 : -1]
    return before


def _first_number(pattern: re.Pattern[str]) -> Callable[[str], int]:
    return lambda latex: max((int(n[:12]) for n in pattern.findall(latex)), default=0)


_LIMITS: tuple[tuple[str, Callable[[str], int], int], ...] = (
    ("characters", len, 1000),
    ("nested brackets", _depth, 32),
    ("digits in a row", _longest_number, 400),
    ("power of a number", _number_power, 10_000),
    ("power of an expression", _other_power, 100),
    ("digits of a power", _power_digits, 40_000),
    ("factorial", _factorial, 1_000),
    ("binomial", _first_number(_BINOMIAL), 1_000),
    ("root index", _first_number(_ROOT_INDEX), 1_000),
    ("stacked powers", _stacked, 3),
    ("powers", lambda latex: len(_POWER.findall(latex)), 40),
)
