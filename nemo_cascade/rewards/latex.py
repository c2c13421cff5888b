r"""Read final answers out of LaTeX: the last box, plain numbers, and a bound on what may be evaluated at all."""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\-])")
_PLAIN_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:(?:,|\{,\}|\\,|\\ )\d{3})+|\d+)?(\.\d*)?")
_SEPARATORS = re.compile(r"\{,\}|\\,|\\ |,")
_DECORATION = ("\\left", "\\right", "\\displaystyle", "\\!", "\\;", "\\:", "$")
# Commands that ask for a computation: an answer may hold one only if the reference does.
_OPERATORS = ("\\int", "\\sum", "\\prod", "\\lim", "\\iint", "\\oint", "\\bigcup", "\\bigcap", "\\frac{d}", "\\partial")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*(?:\{\s*([+-]?[\d,.]+)\s*\}|([+-]?\d+))")
_TOWER = re.compile(r"(?:\^|\*\*)\s*[{(][^{}()]*(?:\^|\*\*)|(?:\*\*|\^)\s*[\w.]+\s*(?:\*\*|\^)|\\uparrow|↑")
_FACTORIAL = re.compile(r"(\d+)\s*\}?\)?\s*!|([})a-zA-Z!])\s*!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)")

MAX_ANSWER_CHARS = 1000
MAX_DEPTH = 32
MAX_DIGITS = 400
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1_000


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` (or `\fbox{...}`), None if there is none or it never closes.

    `\boxed 7` and `\boxed\pi` count as boxes around one word.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    begin = starts[-1]
    if text[begin] != "{":
        word = re.match(r"-?(?:\\[a-zA-Z]+|[\w.]+)", text[begin:])
        return word.group() if word else None
    depth = 0
    for position in range(begin, len(text)):
        char = text[position]
        if char in "{}" and text[position - 1] != "\\":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[begin + 1 : position]
    return None


def strip_decoration(latex: str) -> str:
    """Remove what changes only an answer's look: outer white space, sizing commands, dollar signs, a final dot."""
    for mark in _DECORATION:
        latex = latex.replace(mark, "")
    return latex.strip().removesuffix(".").strip()


def plain_number(latex: str) -> Fraction | None:
    """Return the exact value of an integer or decimal such as `-1,234.50`; None for anything else.

    Commas count as separators only between groups of three digits. Digits must be ASCII: look-alikes of other
    scripts are no plain number.
    """
    if not latex.isascii() or len(latex) > MAX_DIGITS:
        return None
    match = _PLAIN_NUMBER.fullmatch(latex)
    if match is None or not (match[2] or (match[3] and len(match[3]) > 1)):
        return None
    whole, fraction = _SEPARATORS.sub("", match[2] or "0"), (match[3] or ".")[1:]
    value = Fraction(int(whole + fraction), 10 ** len(fraction))
    return -value if match[1] == "-" else value


def cost_problem(latex: str, reference: str) -> str | None:
    """Say why an answer may not be evaluated, or None.

    The bounds are static, so the verdict doesn't depend on how busy the machine is. Each grows with the reference:
    if that holds a huge power, so may the answer.
    """
    limits = (
        ("characters", len, MAX_ANSWER_CHARS),
        ("nested brackets", _depth, MAX_DEPTH),
        ("digits in a row", _digits, MAX_DIGITS),
        ("in an exponent", _largest_exponent, MAX_EXPONENT),
        ("stacked powers", lambda t: len(_TOWER.findall(t)), 0),
        ("in a factorial", _largest_factorial, MAX_FACTORIAL),
        ("in a binomial", lambda t: max((int(m) for m in _BINOMIAL.findall(t)), default=0), MAX_EXPONENT),
    )
    for name, measure, limit in limits:
        found, allowed = measure(latex), max(limit, measure(reference))
        if found > allowed:
            return f"{_short(found)} {name}, allowed: {_short(allowed)}"
    for operator in _OPERATORS:
        if operator in latex and operator not in reference:
            return f"{operator} is left to be computed"
    return None


def _short(number: int) -> str:
    return str(number) if number < 10**12 else "over 10^12"


def _depth(latex: str) -> int:
    depth = deepest = 0
    for char in latex:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest


def _digits(latex: str) -> int:
    return max((len(run) for run in re.findall(r"\d+", latex)), default=0)


def _largest_exponent(latex: str) -> int:
    largest = 0
    for braced, bare in _EXPONENT.findall(latex):
        digits = re.sub(r"[^\d]", "", (braced or bare).split(".")[0])[:MAX_DIGITS]
        largest = max(largest, int(digits or 0))
    return largest


def _largest_factorial(latex: str) -> int:
    largest = 0
    for number, bracket in _FACTORIAL.findall(latex):
        largest = max(largest, int(number[:MAX_DIGITS]) if number else (MAX_FACTORIAL + 1 if bracket in "})!" else 0))
    return largest
