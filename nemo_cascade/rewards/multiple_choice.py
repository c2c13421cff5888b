r"""Multiple choice: read one letter out of an answer, and compare it with the right one.

The forms of answer are those of NeMo Gym's `mcqa` server, whose rows have `options` (a list of {letter: text}),
`expected_answer`, perhaps `grading_mode`, and perhaps `template_metadata.output_regex`: the form that the row's own
prompt asks for. What lists several letters names none. Unlike there, an expression of a row finds a letter only if it
is an option's.
"""

import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

Grading = Literal["strict_boxed", "lenient_boxed", "answer_colon"]

# NeMo Gym's names of the same.
_MODES: Mapping[str, Grading] = {
    "strict_single_letter_boxed": "strict_boxed",
    "lenient_boxed": "lenient_boxed",
    "lenient_answer_colon": "answer_colon",
    "lenient_answer_colon_md": "answer_colon",
}
_BOX = "\\boxed{"
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{(.*)\}", re.DOTALL)
# A letter with nothing but marks around it, or one that opens an option's text: `(B)`, `B: the second`.
_LONE = re.compile(r"[^A-Za-z]*([A-Z])[^A-Za-z]*")
_LABEL = re.compile(r"[\s(\[]*([A-Z])\s*[:).\]\-]")
_COLON = re.compile(r"\**_*answer\**_*\s*:\s*(.+)", re.IGNORECASE)
_OPENING = re.compile(r"[\s*_`(\[]*([A-Za-z])(?![A-Za-z0-9'])")
_ALONE = re.compile(r"(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9'])")
_SEPARATOR = re.compile(r"\s*(?:[/|&,;+]|\bor\b|\band\b|\s)\s*", re.IGNORECASE)
_ANY_LETTER = re.compile(r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])")
# Letters that other scripts number options with.
_LETTERS = {**dict(zip("أبجد", "ABCD", strict=True)), **dict(zip("অবডঢ", "ABCD", strict=True))}
_FOREIGN = re.compile(rf"(?<!\w)[{''.join(_LETTERS)}](?!\w)")

_OPTIONS = [{"A": "a mouse"}, {"B": "a cat"}, {"C": "a dog"}]
_ROW = {"options": _OPTIONS, "expected_answer": "B"}
_COLON_ROW = {**_ROW, "grading_mode": "lenient_answer_colon"}
_OWN_ROW = {**_ROW, "template_metadata": {"output_regex": r"FINAL=\[(\w+)\]"}}


class MultipleChoiceVerifier:
    """Score 1 where the answer names the right option, 0 where it names another, several or none.

    Args:
        grading: where the letter stands; `row`: as the row's `grading_mode` says, else in a box.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(r"<think>maybe \boxed{A}</think>It is \boxed{B}", 1.0, _ROW),
        Golden(r"\boxed{\text{(B)}}", 1.0, _ROW),
        Golden(r"\boxed{B: a cat}", 1.0, _ROW),
        Golden(r"\boxed{C}", 0.0, _ROW),
        Golden(r"\boxed{A, B}", 0.0, _ROW),
        Golden(r"\boxed{a cat}", 0.0, _ROW),
        Golden(r"\boxed{a cat}", 1.0, {**_ROW, "grading_mode": "lenient_boxed"}),
        Golden("**Answer**: B because it purrs", 1.0, _COLON_ROW),
        Golden("Answer: A or B", 0.0, _COLON_ROW),
        Golden("Answer: C\nAnswer: \uff22", 1.0, _COLON_ROW),
        Golden("FINAL=[b]", 1.0, _OWN_ROW),
        Golden("FINAL=[A] FINAL=[Z]", 0.0, _OWN_ROW),
        Golden(r"<think>\boxed{B}", 0.0, _ROW),
        Golden("", None, {"options": _OPTIONS}, error="record"),
        Golden("", None, {**_ROW, "expected_answer": "E"}, error="record"),
    )

    def __init__(self, grading: Literal["row", "strict_boxed", "lenient_boxed", "answer_colon"] = "row") -> None:
        self._grading = grading

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        question = read_question(record)
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        latin = _FOREIGN.sub(lambda match: _LETTERS[match[0]], unicodedata.normalize("NFKC", answer))
        found = question.read(latin, self._grading)
        return Score(float(found == question.right), f"names {found or 'no option'}, {question.right} is right")


class Question:
    """A row's options.

    Args:
        options: letter -> text.
        right: the right one's letter.
        grading: where the letter stands.
        expressions: that the row reads an answer by, most important first; none: the grading says.
    """

    def __init__(
        self, options: Mapping[str, str], right: str, grading: Grading, expressions: tuple[re.Pattern[str], ...]
    ) -> None:
        self.options, self.right, self._grading, self._expressions = options, right, grading, expressions

    def read(self, answer: str, grading: Literal["row", "strict_boxed", "lenient_boxed", "answer_colon"]) -> str | None:
        """Return the one letter that an answer names."""
        if self._expressions:
            return next(filter(None, (self._by_expression(e, answer) for e in self._expressions)), None)
        if (grading if grading != "row" else self._grading) == "answer_colon":
            behind = _COLON.findall(answer)
            return self._option(self._letter_in(behind[-1])) if behind else None
        box = _last_box(answer)
        if box is None:
            return None
        letter = self._option(self._boxed(box))
        lenient = (grading if grading != "row" else self._grading) == "lenient_boxed"
        return self._by_text(box) if letter is None and lenient else letter

    def _boxed(self, box: str) -> str | None:
        found = _LONE.fullmatch(box) or _LABEL.match(box)
        return None if found is None or self._lists(box) else found[1]

    def _letter_in(self, payload: str) -> str | None:
        if self._lists(payload):
            return None
        if opening := _OPENING.match(payload):
            return opening[1]
        alone = _ALONE.findall(payload)
        return alone[-1] if alone else None

    def _lists(self, text: str) -> bool:
        """Tell whether different options' letters stand beside each other as in a list."""
        letters = [m for m in _ANY_LETTER.finditer(text) if m[1].upper() in self.options]
        return any(
            one[1].upper() != other[1].upper() and _SEPARATOR.fullmatch(text[one.end() : other.start()]) is not None
            for one, other in pairwise(letters)
        )

    def _by_text(self, box: str) -> str | None:
        folded = _folded(box)
        named = {letter for letter, text in self.options.items() if text and _folded(text) in folded}
        return named.pop() if len(named) == 1 else None

    def _by_expression(self, expression: re.Pattern[str], answer: str) -> str | None:
        found = [match[1] if expression.groups else match[0] for match in expression.finditer(answer)]
        if not found or found[-1] is None:
            return None
        if len(named := found[-1].strip()) == 1:
            return self._option(named)
        return next((letter for letter, text in self.options.items() if text and _folded(text) == _folded(named)), None)

    def _option(self, letter: str | None) -> str | None:
        return letter.upper() if letter is not None and letter.upper() in self.options else None


def read_question(record: Mapping[str, Any]) -> Question:
    """Read a row.

    Raises:
        VerifierError: it has no options, no right one among them, or a form of answer that isn't known (kind `record`).
    """
    given = field_of(record, "options", list)
    pairs = [(k, v) for entry in given if isinstance(entry, Mapping) for k, v in entry.items()]
    options = {str(k).strip().upper(): str(v or "") for k, v in pairs}
    if not options or any(len(letter) != 1 for letter in options):
        raise VerifierError("record", f"field 'options' must be a list of {{letter: text}}, got {given!r:.200}")
    right = field_of(record, "expected_answer", str).strip().upper()
    if right not in options:
        raise VerifierError("record", f"the right answer {right!r} is none of the options {', '.join(options)}")
    mode = record.get("grading_mode") or "strict_single_letter_boxed"
    if mode not in _MODES:
        raise VerifierError("record", f"field 'grading_mode' is {mode!r}, not one of {', '.join(_MODES)}")
    own = (record.get("template_metadata") or {}).get("output_regex") or []
    try:
        expressions = tuple(re.compile(e, re.IGNORECASE) for e in ([own] if isinstance(own, str) else own))
    except (re.error, TypeError) as error:
        raise VerifierError("record", f"template_metadata.output_regex is no expression: {error}") from error
    return Question(options, right, _MODES[mode], expressions)


def _last_box(answer: str) -> str | None:
    """Return what the last box holds, without the commands around it; None where there is none or it never closes."""
    start = answer.rfind(_BOX)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOX)
    for place in range(begin, len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[place], 0)
        if not depth:
            inner = answer[begin:place].strip()
            while wrapped := _WRAPPED.fullmatch(inner):
                inner = wrapped[1].strip()
            return inner
    return None


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
