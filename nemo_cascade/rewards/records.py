"""Tell the rows that a verifier can't judge before any response to them is made: they hold no reference to judge by."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from nemo_cascade.rewards.code.formats import read_tests
from nemo_cascade.rewards.verifier import VerifierError, field_of
from nemo_cascade.sandbox.inside.foreign import Attempt

_Reader = Callable[[Mapping[str, Any]], object]


def record_problem(verifier: str, record: Mapping[str, Any]) -> str | None:
    """Say why no response to a row can be judged by a verifier; None where nothing speaks against it.

    It reads what a verdict begins with, and judges nothing: a golden patch that fails its tests is found by who runs
    it. Verifiers that read no reference, and compositions of several, accept every row here.
    """
    with Attempt(Exception) as attempt:  # what a verdict would be, too: an error of the row, told with its kind
        _READERS.get(verifier, _nothing)(record)
    error = attempt.error
    if isinstance(error, VerifierError):
        return error.detail
    return None if error is None else f"{type(error).__name__}: {error}"


def _nothing(record: Mapping[str, Any]) -> None:
    pass


def _math(record: Mapping[str, Any]) -> None:
    answer = field_of(record, "answer", (str, int, float))
    if isinstance(answer, float) and not math.isfinite(answer):
        raise VerifierError("record", f"field 'answer' is {answer}")
    from nemo_cascade.rewards.answers.boxes import final_answer
    from nemo_cascade.rewards.answers.compare import check_reference

    reference = str(answer)
    if not (gold := final_answer(reference) or reference).strip():
        raise VerifierError("record", "field 'answer' is empty")
    check_reference(gold)


def _instruction(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.constraints.following import parse_constraints

    if "instruction" in record:
        field_of(field_of(record, "instruction", Mapping), "expected", str)
    else:
        parse_constraints(record)


def _files(record: Mapping[str, Any]) -> None:
    if not field_of(record, "files", Mapping):
        raise VerifierError("record", "field 'files' is empty")


def _repair(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.swe.repair import fixed_files

    _files(record)
    fixed_files(record)


def _execute(record: Mapping[str, Any]) -> None:
    _files(record)
    field_of(record, "test_files", Mapping)
    if not [*field_of(record, "fail_to_pass", list), *(record.get("pass_to_pass") or [])]:
        raise VerifierError("record", "no test to run")


def _reproduction(record: Mapping[str, Any]) -> None:
    _files(record)
    field_of(record, "reproduction_test", str)


def _localize(record: Mapping[str, Any]) -> None:
    if not field_of(record, "gold_files", list):
        raise VerifierError("record", "field 'gold_files' is empty")


def _comparison(record: Mapping[str, Any]) -> None:
    for name in ("score_1", "score_2", "ranking"):
        field_of(record, name, (int, float))


def _choice(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.multiple_choice import read_question

    read_question(record)


def _structure(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.structured_output.verifier import read_schema

    read_schema(record)


def _reference(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.equivalence import reference

    reference(record)


def _rubric(record: Mapping[str, Any]) -> None:
    from nemo_cascade.rewards.rubric import read_rubric

    read_rubric(record)


_READERS: Mapping[str, _Reader] = {
    "math": _math,
    "code": read_tests,
    "instruction": _instruction,
    "swe_repair": _repair,
    "swe_write_test": _repair,
    "swe_execute": _execute,
    "swe_regression": _files,
    "swe_reproduction": _reproduction,
    "swe_localize": _localize,
    "genrm_training": _comparison,
    "multiple_choice": _choice,
    "structured_output": _structure,
    "equivalence": _reference,
    "rubric": _rubric,
}
