r"""Math verifier: is the boxed answer equal to the reference?"""

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.answers.boxes import final_answer
from nemo_cascade.rewards.answers.compare import compare, warmed_up
from nemo_cascade.rewards.form import prompt_text
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of


class MathVerifier:
    r"""Score 1 if the last `\boxed{}` after `</think>` equals the row's `answer`, else 0.

    Source: arXiv 2512.13607, section 4.5, where AceMath's rules compare the answers. Those aren't printed in full;
    where two readings could be argued for, this is what holds here:

    * Values. Two answers are equal if their values are, exactly where they are rational, else to hundreds of digits
      (constants) or at points where both are real (expressions in variables). A decimal is the number it says: 0.3333
      isn't 1/3. It equals another number if it is that rounded to ten or more significant digits. What has no finite
      value (`\max(\infty, 2)`) equals only what is written the same.
    * Percent. 50% equals 50 and 0.5, for references are written either way.
    * Units and currency signs beside a number are ignored where the other answer has none; two known units must be the
      same, they aren't converted (3 hours aren't 180 minutes). Of several quantities each has its own unit: 4 red and
      3 blue. A single letter is a variable, `2s`, unless it is set as text, `2\text{ s}`. Morning isn't evening.
    * Angles. `60^\circ`, `60^o` and 60 degrees equal 60 and \pi/3; inside a function degrees are degrees, bare numbers
      radians.
    * Digits. `12,345` is a number, `12, 345` two; where the other answer holds several numbers, so may a comma without
      a blank. `1,22` is two numbers or a decimal, whichever the other answer is. A number in a base is its value: 54
      equals `66_8` and `66 base 8`, 66 doesn't.
    * Several answers must all be there, and nothing else; their order counts in brackets only. Boxes that only commas,
      `and` or `or` keep apart are one answer; otherwise the last box counts.
    * Sets of reals are equal however they are written: interval (`]0, 1[` too), inequality, set-builder, in reference
      and answer; a bounded set of integers equals the list of its members. A row or a column equals the tuple of its
      entries, a named point its coordinates.
    * Equations. `x = 5` equals 5, and `a + b = 7` equals the reference 7; a reference that is such an equation isn't
      its right side. Two equations are equal if one is a multiple of the other. \approx and what follows it is ignored.
      What an integer parameter is called doesn't matter.
    * Words are equal without regard to case; `\textbf{(A)}\ 5` is A, and 5; `ABD` is A, B, D. Letters that differ only
      in case are the same variable, unless an answer holds both.
    * Sums, products, integrals and limits that are left to be computed are no answer, unless the reference has one.

    Every verdict takes time linear in the response's length. An answer that can't be read, or holds characters that
    hide what they are, is wrong; a reference that can't be read is an error `record`.

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
