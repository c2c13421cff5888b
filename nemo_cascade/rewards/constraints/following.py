"""Tell which of a row's constraints an answer follows, strictly or loosely (arXiv 2311.07911, section 2)."""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from nemo_cascade.rewards.constraints.ifeval import IFEVAL
from nemo_cascade.rewards.constraints.ifeval_reference import IFEVAL_REFERENCE
from nemo_cascade.rewards.constraints.iftrain import IFTRAIN
from nemo_cascade.rewards.constraints.text import Check, plain_text
from nemo_cascade.rewards.response import is_visible
from nemo_cascade.rewards.verifier import VerifierError

CHECKS: Mapping[str, Check] = {**IFEVAL, **IFTRAIN}
Reading = Literal["words", "reference"]
READINGS: Mapping[Reading, Mapping[str, Check]] = {"words": CHECKS, "reference": {**CHECKS, **IFEVAL_REFERENCE}}

# Some 60,000 tokens. In loose mode eight variants of an answer are judged, and all within the verdict's deadline.
MAX_ANSWER_CHARS = 250_000


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint: its type and its arguments."""

    name: str
    arguments: Mapping[str, Any]


def parse_constraints(record: Mapping[str, Any]) -> list[Constraint]:
    """Read the constraints of a row.

    Forms: IFEval's `instruction_id_list` and `kwargs` (a list of dictionaries, or their JSON; nulls are dropped);
    IF-RLVR's `ground_truth`, which is the text of [{"instruction_id": [...], "kwargs": [...]}] as JSON or, in the
    released set, as Python writes it.

    Raises:
        VerifierError: the row has neither, or names an unknown type (kind `record`).
    """
    names, arguments = record.get("instruction_id_list"), record.get("kwargs")
    if names is None and "ground_truth" in record:
        truth = _parsed(record["ground_truth"])
        entry = _parsed(truth[0]) if isinstance(truth, list) and truth else truth
        if not isinstance(entry, Mapping):
            raise VerifierError("record", "field 'ground_truth' holds no constraints")
        names, arguments = entry.get("instruction_id"), entry.get("kwargs")
    names, arguments = _parsed(names), _parsed(arguments)
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise VerifierError("record", "field 'instruction_id_list' must be a list of constraint types")
    if not isinstance(arguments, Sequence) or len(arguments) != len(names):
        raise VerifierError("record", f"field 'kwargs' must be a list of {len(names)} entries, one per constraint")
    unknown = sorted({str(name) for name in names} - CHECKS.keys())
    if unknown:
        raise VerifierError("record", f"unknown constraint types: {', '.join(unknown)}")
    filled = [{k: v for k, v in (_parsed(a) or {}).items() if v is not None} for a in arguments]
    return [Constraint(str(name), a) for name, a in zip(names, filled, strict=True)]


def follows(answer: str, constraint: Constraint, mode: Literal["strict", "loose"], reading: Reading = "words") -> bool:
    """Tell whether an answer follows a constraint; one in which nothing can be seen follows none.

    Args:
        answer: the text after the reasoning.
        constraint: what was asked.
        mode: strict; or loose: it, or it without its first line, last line or both, or any of these without asterisks.
        reading: by what the instruction's words ask, or by what the reference implementation of IFEval checks.

    Raises:
        VerifierError: an argument that the type needs is absent or malformed (kind `record`).
    """
    check = READINGS[reading][constraint.name]
    answer = plain_text(answer) if reading == "words" else answer
    variants = [answer] if mode == "strict" else _loose_variants(answer)
    return any(is_visible(variant) and check(variant, constraint.arguments) for variant in variants)


def _loose_variants(answer: str) -> list[str]:
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cut, *(variant.replace("*", "") for variant in cut)]))


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(value)
        raise VerifierError("record", f"constraints are neither JSON nor a Python literal: {error}") from error
