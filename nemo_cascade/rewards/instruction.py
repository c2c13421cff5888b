"""Instruction-following verifier: did the answer do what was asked?"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nemo_cascade.rewards.constraints.following import MAX_ANSWER_CHARS, Reading, follows, parse_constraints
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of


def _exact(text: str, kind: str = "exact") -> dict[str, Any]:
    return {"instruction": {"kind": kind, "expected": text}}


_NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
_TWO = {
    "instruction_id_list": ["detectable_format:title", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "less than", "num_words": 5}],
}


class InstructionVerifier:
    """Score 1 if the answer after `</think>` obeys all that the row asks for, else 0 (arXiv 2512.13607, section 4.4).

    A row with `instruction_id_list` and `kwargs` (or `ground_truth`) holds constraints of the IFEval and IFBench-train
    taxonomies; see `constraints`.

    A row with `instruction` = {"kind": "exact", "expected": ...} asks for that text, character for character, once
    white space at the answer's very beginning and end is removed (the newline after `</think>` is part of the
    template, not of the answer). Inside, every space, tab and newline counts; letters aren't case-folded and Unicode
    isn't normalised.

    Args:
        mode: strict, or loose: markdown asterisks and an introductory or closing line are forgiven.
        reading: words: a constraint is what its instruction asks of a reader, which is what a policy should be rewarded
            for. reference: it is what the code of IFEval's reference implementation accepts, for scores that are
            compared with published ones. They differ where that code counts a keyword within longer words, a rule or a
            minus sign as a bullet, `3*4*5` as a highlight, a contraction as two words, a bare number or NaN as JSON,
            `[]` as a placeholder, straight quotation marks only, paragraphs by their index among blank ones, a carriage
            return as part of its line, and takes capitals for another language.
        partial: score the share of followed constraints instead of all or nothing.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>\nhm</think>\nred blue", 1.0, _exact("red blue")),
        Golden("red blue\n", 1.0, _exact("red blue")),
        Golden("red  blue", 0.0, _exact("red blue")),
        Golden("Red blue", 0.0, _exact("red blue")),
        Golden("red blue.", 0.0, _exact("red blue")),
        Golden("<think>\nred blue", 0.0, _exact("red blue")),
        Golden("red blue", None, _exact("red blue", kind="exakt"), error="record"),
        Golden("One two three.", 1.0, _NO_COMMA),
        Golden("<think>a, b</think>One two three.", 1.0, _NO_COMMA),
        Golden("One, two, three.", 0.0, _NO_COMMA),
        Golden("<<A poem>> of joy", 1.0, _TWO),
        Golden("<<A poem>> of joy and of much more", 0.0, _TWO),
        Golden("", 0.0, _NO_COMMA),
        Golden("a", None, {"instruction_id_list": ["no:such"], "kwargs": [{}]}, error="record"),
    )

    def __init__(
        self, mode: Literal["strict", "loose"] = "strict", partial: bool = False, reading: Reading = "words"
    ) -> None:
        self._mode: Literal["strict", "loose"] = mode
        self._reading: Reading = reading
        self._partial = partial

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward in [0, 1]; see `Verifier.verify`."""
        answer = split_response(response.text).answer
        if "instruction" in record:
            expected = self._expected(field_of(record, "instruction", Mapping))
            return Score(float(answer is not None and answer.strip() == expected.strip()))
        constraints = parse_constraints(record)
        if answer is None:
            return Score(0.0, "thinking never ended")
        if len(answer) > MAX_ANSWER_CHARS:
            return Score(0.0, f"an answer of {len(answer)} characters")
        followed = [follows(answer.strip(), constraint, self._mode, self._reading) for constraint in constraints]
        broken = [constraint.name for constraint, good in zip(constraints, followed, strict=True) if not good]
        score = sum(followed) / len(followed) if self._partial else float(not broken)
        return Score(score, f"not followed: {', '.join(broken)}" if broken else "")

    @staticmethod
    def _expected(instruction: Mapping[str, Any]) -> str:
        if instruction.get("kind") != "exact":
            raise VerifierError("record", f"instruction.kind must be 'exact', got {instruction.get('kind')!r}")
        return str(field_of(instruction, "expected", str))
