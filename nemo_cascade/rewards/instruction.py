"""Instruction-following verifier: did the answer do exactly what was asked?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of


class InstructionVerifier:
    """Score 1 if the answer obeys the row's `instruction`, else 0.

    Kinds: `exact`: the answer equals `expected` character for character, once white space at the answer's very
    beginning and end is removed (the newline after `</think>` is part of the template, not of the answer). Inside,
    every space, tab and newline counts; letters aren't case-folded and Unicode isn't normalised.
    """

    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>\nhm</think>\nred blue", 1.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("red blue\n", 1.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("red  blue", 0.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("Red blue", 0.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("red blue.", 0.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("<think>\nred blue", 0.0, {"instruction": {"kind": "exact", "expected": "red blue"}}),
        Golden("red blue", None, {"instruction": {"kind": "exakt", "expected": "red blue"}}, error="record"),
    )

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        instruction = field_of(record, "instruction", Mapping)
        kind = instruction.get("kind")
        if kind != "exact":
            raise VerifierError("record", f"instruction.kind must be 'exact', got {kind!r}")
        expected = field_of(instruction, "expected", str)
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        return Score(float(answer.strip() == expected.strip()))
