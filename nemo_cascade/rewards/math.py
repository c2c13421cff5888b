r"""Math verifier: is the boxed answer equal to the reference?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar
from zlib import crc32

from nemo_cascade.rewards.evaluation_cost import cost_problem
from nemo_cascade.rewards.guards import prompt_text
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.latex import hidden_characters, last_boxed, plain_look, plain_number, split_percent
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_DECIMALS = 10
# Compared once in the process that workers are forked from: the libraries build grammars and caches on first use.
_WARM_UP = (
    ("(x+1)^2", "x^2+2x+1"), (r"\{1,2\}", r"\{2,1\}"), ("(1,2]", "[1,2)"), (r"\sin 2x", r"2\sin x\cos x"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), (r"\frac{\pi}{2}", r"\sqrt{2}"),
    ("x=5", "y=6"), ("x>3", "x<3"),
)  # fmt: skip


class MathVerifier:
    r"""Score 1 if the last `\boxed{}` after `</think>` equals the row's `answer`, else 0.

    Source: arXiv 2512.13607, section 4.5.

    Integers and decimals are compared exactly; the rest by the math-verify library on SymPy, where a decimal equals an
    exact value only to ten places (0.3333 is not 1/3). `50%` equals 50 and 0.5: references are written either way.
    Units and currency signs around a number are ignored. Several answers must all be there, and nothing else.

    What costs too much to evaluate (towers of powers, giant factorials, unevaluated integrals: `evaluation_cost`)
    is no final answer and scores 0 by a static rule, so that the verdict doesn't depend on the machine's load and a
    policy can't leave its group by writing `9^{9^9}`. What still burns the pool's deadline is an error `timeout`:
    nobody knows whether it was right, so the sample is dropped from its group and counted.

    Args:
        mixed_language_score: score of a response whose reasoning holds text of a foreign script, whatever its answer
            (-1 in arXiv 2512.13607, section 4.5); None doesn't look.
        language: language of the reasoning, ISO 639-1.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(r"<think>\boxed{3}</think> \boxed{4}", 1.0, {"answer": "4"}),
        Golden(r"<think>\boxed{4}</think> \boxed{3}", 0.0, {"answer": "4"}),
        Golden(r"<think> so it is \boxed{4}", 0.0, {"answer": "4"}),
        Golden(r"4", 0.0, {"answer": "4"}),
        Golden(r"\boxed{1{,}234.50}", 1.0, {"answer": "1234.5"}),
        Golden(r"\boxed{\frac{2}{4}}", 1.0, {"answer": r"\frac{1}{2}"}),
        Golden(r"\boxed{0.3333}", 0.0, {"answer": r"\frac{1}{3}"}),
        Golden(r"\boxed{x^2 + 2x + 1}", 1.0, {"answer": "(x+1)^2"}),
        Golden(r"\boxed{(1, 2]}", 0.0, {"answer": "(1, 2)"}),
        Golden(r"\boxed{9^{9^{9}}}", 0.0, {"answer": "7"}),
        Golden(r"\boxed{4}", None, {"answer": ""}, error="record"),
    )

    def __init__(self, mixed_language_score: float | None = None, language: str = "en") -> None:
        self._mixed_language_score, self._language = mixed_language_score, language
        from math_verify import LatexExtractionConfig, parse, verify

        # The library warns whenever its own alarm is off; here the pool's deadline bounds every verdict.
        for name in ("math_verify", "latex2sympy2_extended"):
            logging.getLogger(name).setLevel(logging.ERROR)
        extraction = [LatexExtractionConfig(boxed_match_priority=-1)]
        # The responses to one prompt share its reference, and often their answers.
        self._parse = lru_cache(maxsize=1024)(lambda latex: parse(f"${latex}$", extraction, parsing_timeout=None))
        self._equal = verify
        for gold, answer in _WARM_UP:
            self.compare(gold, answer)

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        gold = plain_look(str(field_of(record, "answer", (str, int, float))))
        if not gold:
            raise VerifierError("record", "field 'answer' is empty")
        parts = split_response(response.text)
        answer = parts.answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        if self._mixed_language_score is not None:
            foreign = foreign_text(parts.reasoning, self._language, quoted=prompt_text(record))
            if foreign is not None:
                return Score(self._mixed_language_score, f"foreign text in the reasoning: {foreign}")
        boxed = last_boxed(answer)
        if boxed is None:
            return Score(0.0, "no closed \\boxed{}")
        return self.compare(gold, plain_look(boxed))

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
        value = expression.subs(point).evalf(20)
        if not value.is_number or not value.is_finite:
            return False
        values.append(value)
    difference, size = abs(values[0] - values[1]), max(1, abs(values[0]), abs(values[1]))
    return bool(difference > size * sympy.Float(1e-6))
