r"""Equality of two final answers: exact for plain numbers, by the math-verify library for the rest."""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from typing import Any
from zlib import crc32

from nemo_cascade.rewards.evaluation_cost import cost_problem
from nemo_cascade.rewards.latex import hidden_characters, plain_number, split_percent
from nemo_cascade.rewards.verifier import Score, VerifierError

_DECIMALS = 10
# Compared once in the process that workers are forked from. The libraries import modules and fill caches on first use
# (the parser's prediction tables, SymPy's functions), which would cost each fresh worker some 10 ms of CPU; so here
# are equal and unequal answers of each form that references take. They change no verdict, only how soon it comes.
_WARM_UP = (
    ("(x+1)^2", "x^2+2x+1"), ("(x+5)^2", "x^2+10x+26"), ("a^2-b^2", "(a-b)(a+b)"), ("2^{n+1}-3", "2^{n}-3"),
    (r"\frac{1}{2}", r"\frac{2}{4}"), (r"\frac{3}{7}", r"\frac{7}{3}"), ("0.5", r"\frac{1}{2}"),
    (r"\frac{5}{8}", "0.6"), (r"2\frac{1}{3}", r"\frac{7}{3}"), (r"-\frac{\pi}{2}", r"\frac{-\pi}{2}"),
    (r"\frac{\pi}{3}", r"60^\circ"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\sqrt[3]{16}", r"2\sqrt{2}"),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac{\sqrt{5}}{2}+0.5"), (r"\{1,2,-3\}", r"\{2,-3,1\}"), (r"\{1,2\}", r"\{1,3\}"),
    ("1,2", "2,1"), (r"1\text{ or }2", "1"), ("(1,2]", r"(\frac{2}{2},2]"), ("(1,2]", "[1,2)"), ("(1,2)", "(1,3)"),
    ("(1,2,3)", "(3,2,1)"), (r"[0,\infty)", r"(-\infty,0]"), (r"(-\infty,1)\cup(2,3]", r"(-\infty,1)\cup(2,3)"),
    (r"\emptyset", r"\{0\}"), ("x=5", "5"), ("y=2x+1", "y=2x+3"), ("x=1, y=2", "(1,2)"), ("x>3", "x<3"),
    (r"1\le x<2", "[1,2)"), (r"x\ne 0", "x=0"), ("12%", "0.12"), (r"5\text{ cm}", "5"), (r"5\text{ cm}^2", "6"),
    (r"\$18.50", "18"), (r"\text{Tuesday}", r"\text{Monday}"), ("AB", "BA"), ("3+4i", "4i-3"),
    (r"\sin 2x", r"2\sin x\cos x"), (r"\tan(x)", r"\cot(x)"), (r"\log_2 8", r"\ln 3"), ("e^{2}", "e^{3}"),
    (r"\binom{5}{2}", "5!"), (r"|x-1|", "|1-x|"), (r"\lfloor 2.5 \rfloor", "3"), (r"3\times 10^{4}", r"3\cdot 10^5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), ("x_1+x_2", r"\alpha+\beta"),
    (r"\pm 2", "2"),
    # What references most often are, once more with a near miss, which takes paths of its own.
    ("(x+3)^2", "x^2+6x+9"), ("(x+3)^2", "x^2+6x+10"), (r"\frac{4}{22}", r"\frac{8}{44}"),
    (r"\frac{4}{22}", r"\frac{13}{66}"), ("(5,9]", "(5,9)"), (r"\{7,8,-3\}", r"\{-3,7,8\}"),
    (r"\{7,8,-3\}", r"\{-3,9,8\}"), (r"6\sqrt{108}", r"36\sqrt{3}"), (r"6\sqrt{108}", r"37\sqrt{3}"),
    ("7.5", r"\frac{15}{2}"), ("7.5", r"\frac{16}{2}"),
)  # fmt: skip
_REHEARSAL = (r"\frac{4}{9}", r"\frac{8}{18}")  # none of the above, whose parses are kept


@cache
def shared_equality() -> AnswerEquality:
    """Return this process's comparison, with its libraries loaded and warmed up."""
    equality = AnswerEquality()
    for gold, answer in _WARM_UP:
        equality.compare(gold, answer)
    return equality


class AnswerEquality:
    """Compares LaTeX answers; the rules are those of `MathVerifier`."""

    def __init__(self) -> None:
        from math_verify import LatexExtractionConfig, parse, verify

        # The library warns whenever its own alarm is off; here the pool's deadline bounds every verdict.
        for name in ("math_verify", "latex2sympy2_extended"):
            logging.getLogger(name).setLevel(logging.ERROR)
        extraction = [LatexExtractionConfig(boxed_match_priority=-1)]
        # The responses to one prompt share its reference, and often their answers.
        self._parse = lru_cache(maxsize=1024)(lambda latex: parse(f"${latex}$", extraction, parsing_timeout=None))
        self._equal = verify

    def rehearse(self) -> None:
        """Compare one pair, so that a process that waits copies the pages that a comparison writes to."""
        self.compare(*_REHEARSAL)

    def compare(self, gold: str, answer: str) -> float:
        """Return 1 if two LaTeX answers are equal, else 0."""
        detail = f"{answer[:80]} against {gold[:80]}"
        if answer == gold:
            return Score(1.0, detail)
        problem = hidden_characters(answer)
        if problem is not None and problem != hidden_characters(gold):
            return Score(0.0, f"not a final answer: hidden character {problem}")
        if not answer or not answer.isascii():  # letters of other scripts are words: only the same text is equal
            return Score(0.0, detail)
        (gold_body, gold_percent), (body, percent) = split_percent(gold), split_percent(answer)
        if percent and not gold_percent:
            forms = [(gold_body, body), (gold_body, f"\\frac{{{body}}}{{100}}")]
        elif gold_percent and not percent:
            forms = [(gold_body, body), (f"\\frac{{{gold_body}}}{{100}}", body)]
        else:
            forms = [(gold_body, body)]
        return Score(float(any(self._same(*form) for form in forms)), detail)

    def _same(self, gold: str, answer: str) -> bool:
        gold_number, number = plain_number(gold), plain_number(answer)
        if gold_number is not None and number is not None:
            return gold_number == number
        if cost_problem(answer, gold) is not None:
            return False
        gold_parsed = self._parse(gold)
        if not gold_parsed:
            raise VerifierError("record", f"answer {gold[:80]!r} is no LaTeX that can be read")
        parsed = self._parse(answer)
        if not parsed or _differ_at_a_point(gold_parsed[0], parsed[0]):
            return False
        return bool(self._equal(gold_parsed, parsed, float_rounding=_DECIMALS, timeout_seconds=None))


def _differ_at_a_point(first: Any, second: Any) -> bool:
    """Refute that two expressions are equal by their values where each variable has some positive number.

    That spares the costly attempt to simplify their difference, which wrong answers invite. False proves nothing.
    """
    import sympy

    if isinstance(first, sympy.Eq) != isinstance(second, sympy.Eq):  # `x = 5` is compared with 5 by its right side
        first, second = (e.rhs if isinstance(e, sympy.Eq) else e for e in (first, second))
    if not all(
        isinstance(e, sympy.Expr) and not isinstance(e, sympy.Symbol | sympy.MatrixExpr) for e in (first, second)
    ):
        return False
    if any(e.is_Mul and all(isinstance(a, sympy.Symbol) or a == sympy.E for a in e.args) for e in (first, second)):
        return False  # a word: its letters were read as variables
    values = []
    for expression in (first, second):
        point = {v: sympy.Float(0.5 + crc32(v.name.encode()) / 2**32, 30) for v in expression.free_symbols}
        try:
            value = expression.subs(point).evalf(20)
        except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError, RecursionError):
            return False  # SymPy can't evaluate it there
        if not value.is_number or not value.is_finite:
            return False
        values.append(value)
    difference, size = abs(values[0] - values[1]), max(1, abs(values[0]), abs(values[1]))
    return bool(difference > size * sympy.Float(1e-6))
