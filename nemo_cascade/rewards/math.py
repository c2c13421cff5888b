r"""Math verifier: is the boxed answer equal to the reference?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.answers.boxes import final_answer
from nemo_cascade.rewards.answers.compare import compare, warmed_up
from nemo_cascade.rewards.guards import prompt_text
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of


class MathVerifier:
    r"""Score 1 if the last `\boxed{}` after `</think>` equals the row's `answer`, else 0.

    Source: arXiv 2512.13607, section 4.5, where AceMath's rules compare the answers.

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
        warmed_up()

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        reference = str(field_of(record, "answer", (str, int, float)))
        gold = final_answer(reference) or reference
        if not gold.strip():
            raise VerifierError("record", "field 'answer' is empty")
        parts = split_response(response.text)
        answer = parts.answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        if self._mixed_language_score is not None:
            foreign = foreign_text(parts.reasoning, self._language, quoted=prompt_text(record))
            if foreign is not None:
                return Score(self._mixed_language_score, f"foreign text in the reasoning: {foreign}")
        boxed = final_answer(answer)
        if boxed is None:
            return Score(0.0, "no closed \\boxed{}")
        return compare(gold, boxed)
