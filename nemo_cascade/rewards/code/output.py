"""Compare what a program printed, or returned, with what it should have."""

from __future__ import annotations

import math
import re
from decimal import Decimal

TOLERANCE = 1e-6
_NUMBER = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))([eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 1000  # characters; a longer word must be the same, sign by sign


def same_output(actual: str, expected: str) -> bool:
    """Compare outputs line by line, each line word by word.

    Blank lines at the beginning and the end, and the width of white space, don't count. Where a real number is expected
    (one with a point or an exponent), any number within 1e-6 of it, absolute or relative, will do; everything else must
    be the same. Two numbers that are whole and written out have nothing to round: they must be equal, as `3` and `3.0`
    are.

    LiveCodeBench compares decimals exactly, APPS within 1e-5 of the expected value; most released outputs were printed
    by C++ programs, whose last digits Python's needn't have.
    """
    actual_lines, expected_lines = actual.strip().split("\n"), expected.strip().split("\n")
    if len(actual_lines) != len(expected_lines):
        return False
    return all(_same_line(a.split(), e.split()) for a, e in zip(actual_lines, expected_lines, strict=True))


def _same_line(actual: list[str], expected: list[str]) -> bool:
    return len(actual) == len(expected) and all(a == e or _close(a, e) for a, e in zip(actual, expected, strict=True))


def _close(actual: str, expected: str) -> bool:
    if max(len(actual), len(expected)) > _LONGEST_NUMBER:
        return False
    due, given = _NUMBER.fullmatch(expected), _NUMBER.fullmatch(actual)
    if due is None or given is None or not any(due.groups()):
        return False
    if due[3] is None and given[3] is None:
        exact_due, exact_given = Decimal(expected), Decimal(actual)
        if exact_due == exact_due.to_integral_value() and exact_given == exact_given.to_integral_value():
            return exact_due == exact_given
    return math.isclose(float(actual), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


# Runs in the sandbox's checker process, in a namespace of its own, so that no function under test takes the place of a
# built-in there: values arrive as plain data. JSON knows no tuples, so they equal lists.
_COMPARISON = f"""
import math

def same(actual, expected):
    if isinstance(actual, tuple):
        actual = list(actual)
    if isinstance(expected, (list, tuple)):
        return (isinstance(actual, list) and len(actual) == len(expected)
                and all(same(a, e) for a, e in zip(actual, expected)))
    if isinstance(expected, dict):
        texts = {{str(key): value for key, value in actual.items()}} if isinstance(actual, dict) else {{}}
        return (isinstance(actual, dict) and len(actual) == len(expected)
                and all(str(k) in texts and same(texts[str(k)], v) for k, v in expected.items()))
    if isinstance(expected, bool) or isinstance(actual, bool) or expected is None:
        return type(actual) is type(expected) and actual == expected
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        return actual == expected or math.isclose(actual, expected, rel_tol={TOLERANCE}, abs_tol={TOLERANCE})
    return isinstance(actual, (str, int, float)) and actual == expected

def any_same(actual, alternatives):
    return any(same(actual, expected) for expected in alternatives)
"""
CALL_HELPERS = f"""
import builtins as _builtins
_comparison = {{"__builtins__": _builtins}}
_builtins.exec({_COMPARISON!r}, _comparison)
_any_same = _comparison["any_same"]
inf, nan = _comparison["math"].inf, _comparison["math"].nan
"""
