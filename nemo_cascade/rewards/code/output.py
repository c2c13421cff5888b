"""Compare what a program printed, or returned, with what it should have."""

from __future__ import annotations

import marshal
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from typing import Literal

TOLERANCE = 1e-6
_NUMBER = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))([eE][+-]?\d+)?", re.ASCII)
_BLANKS = re.compile(r"(\s+)", re.ASCII)
_TOLERANCES = ("float_tolerance", "float_absolute_tolerance", "float_relative_tolerance")
_LONGEST_NUMBER = 1000  # characters; a longer word must be the same, sign by sign


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What may differ between a program's output and the right one.

    Attributes:
        whitespace: `lines`: the same lines, word by word; `words`: the same words, wherever lines end; `exact`: every
            blank and line end must be the same. Of `lines` and `words`, the width of blanks, and blank lines at the
            beginning and the end, don't count.
        any_case: ASCII letters may be capital or small.
        absolute: how far a number may be from the expected one; None: not at all.
        relative: the same as a part of the expected number.
        whole_numbers: whether numbers without point and exponent may differ, too.
    """

    whitespace: Literal["lines", "words", "exact"] = "lines"
    any_case: bool = False
    absolute: float | None = TOLERANCE
    relative: float | None = TOLERANCE
    whole_numbers: bool = False

    @classmethod
    def of_package(cls, flags: str) -> OutputRule:
        """Return what a problem package's `validator_flags` ask of the default validator; empty flags are a rule, too.

        Source: support/default_validator of github.com/Kattis/problemtools.

        Raises:
            ValueError: the default validator has no such flag, or it lacks its number.
        """
        rule = cls("words", any_case=True, absolute=None, relative=None, whole_numbers=True)
        words = iter(flags.split())
        for word in words:
            if word == "case_sensitive":
                rule = replace(rule, any_case=False)
            elif word == "space_change_sensitive":
                rule = replace(rule, whitespace="exact")
            elif word in _TOLERANCES:
                number = next(words, "")
                if not _NUMBER.fullmatch(number):
                    raise ValueError(f"{word} needs a number, not {number!r}")
                rule = rule if "relative" in word else replace(rule, absolute=float(number))
                rule = rule if "absolute" in word else replace(rule, relative=float(number))
            else:
                raise ValueError(f"the default validator has no flag {word!r}")
        return rule


def same_output(actual: str, expected: str, rule: OutputRule | None = None) -> bool:
    """Compare outputs.

    Without another rule, line by line, each line word by word: blank lines at the beginning and the end, and the width
    of white space, don't count. Where a real number is expected (one with a point or an exponent), any number within
    1e-6 of it, absolute or relative, will do; everything else must be the same. Two numbers that are whole and written
    out have nothing to round: they must be equal, as `3` and `3.0` are.

    Graders of public sets differ. Lines: LiveCodeBench and NeMo Gym's code_gen, which has it from there (decimals
    exactly), SandboxFusion (any case, 1e-5 relative). Words: DeepMind's CodeContests (any case, 1e-5 absolute), Kattis
    and DOMjudge (`OutputRule.of_package`). APPS, TACO, PRIME and rLLM's DeepCoder try several ways, down to sets of
    words in any order. Most released outputs were printed by C++ programs, whose last digits Python's needn't have.
    """
    rule = rule or OutputRule()
    if rule.whitespace == "exact":
        given, due = [_BLANKS.split(actual)], [_BLANKS.split(expected)]
    else:
        given, due = ([line.split() for line in text.strip().split("\n")] for text in (actual, expected))
        if rule.whitespace == "words":
            given, due = [list(chain(*given))], [list(chain(*due))]
    return len(given) == len(due) and all(_same_line(a, e, rule) for a, e in zip(given, due, strict=True))


def _same_line(actual: Sequence[str], expected: Sequence[str], rule: OutputRule) -> bool:
    return len(actual) == len(expected) and all(
        a == e or _same_letters(a, e, rule) or _close(a, e, rule) for a, e in zip(actual, expected, strict=True)
    )


def _same_letters(actual: str, expected: str, rule: OutputRule) -> bool:
    return rule.any_case and actual.encode("utf-8", "replace").lower() == expected.encode("utf-8", "replace").lower()


def _close(actual: str, expected: str, rule: OutputRule) -> bool:
    if (rule.absolute is None and rule.relative is None) or max(len(actual), len(expected)) > _LONGEST_NUMBER:
        return False
    due, given = _NUMBER.fullmatch(expected), _NUMBER.fullmatch(actual)
    if due is None or given is None or not (rule.whole_numbers or any(due.groups())):
        return False
    if due[3] is None and given[3] is None and not rule.whole_numbers:
        exact_due, exact_given = Decimal(expected), Decimal(actual)
        if exact_due == exact_due.to_integral_value() and exact_given == exact_given.to_integral_value():
            return exact_due == exact_given
    return math.isclose(float(actual), float(expected), rel_tol=rule.relative or 0.0, abs_tol=rule.absolute or 0.0)


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
# Compiled here, once: host and sandbox have the same interpreter.
_COMPILED = marshal.dumps(compile(_COMPARISON, "comparison", "exec", dont_inherit=True))
CALL_HELPERS = f"""
import builtins as _builtins, marshal as _marshal
_comparison = {{"__builtins__": _builtins}}
_builtins.exec(_marshal.loads({_COMPILED!r}), _comparison)
_any_same = _comparison["any_same"]
inf, nan = _comparison["math"].inf, _comparison["math"].nan
"""
