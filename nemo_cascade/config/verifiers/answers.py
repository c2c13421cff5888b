"""Settings of the verifiers of answers: a choice, a structure, the same meaning, a rubric.

What a judge model says and can't be read is an error of its sample, unless `unreadable` names what it counts for; what
counted so is told in the verdict, and counted in the step's metrics.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import PositiveInt, model_validator

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.verifiers.base import JudgeSettings, Settings


@block
class MultipleChoiceSettings(Settings):
    """Settings of `multiple_choice`."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    grading: Literal["row", "strict_boxed", "lenient_boxed", "answer_colon"] = "row"
    """Where the letter stands. row: as the row's `grading_mode` says, else strict_boxed. strict_boxed: the last box
    holds a letter, or one and a delimiter; lenient_boxed: or one option's text; answer_colon: behind the last
    `Answer:`. A row with its own expression (`template_metadata.output_regex`) is read by that."""


@block
class StructuredOutputSettings(Settings):
    """Settings of `structured_output`."""

    kind: Literal["structured_output"] = "structured_output"
    coerce_xml: bool = True
    """Read the texts of XML as the numbers and truth values that the schema asks for."""


@block
class EquivalenceSettings(Settings):
    """Settings of `equivalence`."""

    kind: Literal["equivalence"] = "equivalence"
    by: Literal["rule", "judge"] = "rule"
    """rule: the answer is the reference but for case and white space; judge: a model says whether it means the same."""
    judge: JudgeSettings | None = None
    """by=judge: who is asked."""
    swap: bool = False
    """Ask a second time with the two answers' places changed; right is what both say (Nemotron 3 Nano's judge of
    mathematics; its judge of long contexts asks once)."""
    boxed: bool = False
    r"""Compare what the last \boxed{} holds instead of the whole answer; an answer without a box is wrong."""
    unreadable: Literal["error", "incorrect"] = "error"
    """What a judgement that can't be read counts for; NeMo Gym's servers count it as incorrect."""
    attempts: PositiveInt = 1
    """Questions to the judge until its answer can be read."""
    sampling: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 2048})
    """Further fields of each request."""

    @model_validator(mode="after")
    def _judged(self) -> EquivalenceSettings:
        if (self.by == "judge") != (self.judge is not None):
            raise ValueError("judge={url, model} with by=judge, null with by=rule")
        if self.by == "rule" and self.swap:
            raise ValueError("swap=true needs by=judge: a rule says the same both ways")
        return self


@block
class RubricSettings(Settings):
    """Settings of `rubric`."""

    kind: Literal["rubric"] = "rubric"
    judge: JudgeSettings
    """Who is asked about each item of a row's `rubric`."""
    combine: Literal["mean", "all", "weighted"] = "mean"
    """mean of the items that are met, 1 only where all are, or their mean by the items' `weight`."""
    pass_at: Fraction | None = None
    """A combined score from this on is 1 and any other 0; null: the score as it is."""
    unreadable: Literal["error", "not_met"] = "error"
    """What a judgement that can't be read counts for; NeMo Gym's server counts it as a NO."""
    attempts: PositiveInt = 1
    """Questions to the judge about an item until its answer can be read."""
    sampling: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 2048})
    """Further fields of each request."""
