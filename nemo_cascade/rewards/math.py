r"""Math verifier: is the boxed answer equal to the reference?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.latex import cost_problem, last_boxed, plain_number, strip_decoration
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of


class MathVerifier:
    r"""Score 1 if the last `\boxed{}` after `</think>` equals the row's `answer`, else 0.

    Source: arXiv 2512.13607, section 4.5.

    Integers and decimals are compared exactly; the rest by the math-verify library on SymPy.

    What costs too much to evaluate (towers of powers, giant factorials, unevaluated integrals: `latex.cost_problem`)
    is no final answer and scores 0 by a static rule, so that the verdict doesn't depend on the machine's load and a
    policy can't leave its group by writing `9^{9^9}`. What still burns the pool's deadline is an error `timeout`:
    nobody knows whether it was right, so the sample is dropped from its group and counted.
    """

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

    def __init__(self) -> None:
        from math_verify import LatexExtractionConfig, parse, verify

        # The library warns whenever its own alarm is off; here the pool's deadline bounds every verdict.
        for name in ("math_verify", "latex2sympy2_extended"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._parse, self._equal = parse, verify
        self._extraction = [LatexExtractionConfig(boxed_match_priority=-1)]

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        gold = strip_decoration(str(field_of(record, "answer", (str, int, float))))
        if not gold:
            raise VerifierError("record", "field 'answer' is empty")
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        boxed = last_boxed(answer)
        if boxed is None:
            return Score(0.0, "no closed \\boxed{}")
        return self.compare(gold, strip_decoration(boxed))

    def compare(self, gold: str, answer: str) -> float:
        """Return 1 if two LaTeX answers are equal, else 0."""
        if answer == gold:
            return Score(1.0, "same text")
        gold_number, number = plain_number(gold), plain_number(answer)
        if gold_number is not None and number is not None:
            return Score(float(gold_number == number), f"{answer[:80]} against {gold[:80]}")
        problem = cost_problem(answer, gold)
        if problem is not None:
            return Score(0.0, f"not a final answer: {problem}")
        gold_parsed = self._parse(f"${gold}$", self._extraction, parsing_timeout=None)
        if not gold_parsed:
            raise VerifierError("record", f"answer {gold[:80]!r} is no LaTeX that can be read")
        parsed = self._parse(f"${answer}$", self._extraction, parsing_timeout=None)
        equal = bool(parsed) and self._equal(gold_parsed, parsed, timeout_seconds=None)
        return Score(float(equal), f"{answer[:80]} against {gold[:80]}")
