"""Words, sentences and paragraphs, as the constraints count them. All functions take time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from nemo_cascade.rewards.verifier import VerifierError

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:[-.'’]\w+)*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[」』”]*")
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "capt", "lt", "gen", "sen", "rep", "rev", "jr", "sr", "co", "inc", "ltd",
    "corp", "vs", "etc", "e.g", "i.e", "cf", "vol", "approx", "dept",
})  # fmt: skip


def words(text: str) -> list[str]:
    """Return runs of letters, digits and underscores (IFEval's way of counting words)."""
    return _WORD.findall(text)


def tokens(text: str) -> list[str]:
    """Return words without punctuation; hyphens, apostrophes and dots inside a word don't split it."""
    return _TOKEN.findall(text)


def sentences(text: str) -> list[str]:
    """Split into sentences after `.`, `!`, `?` and their like.

    No sentence ends after a common abbreviation, a single initial, or inside a number or an address. A line break in
    the middle of a sentence is a space; an empty line ends one.
    """
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        start = 0
        for end in _END.finditer(block):
            if end.group() == "." and _is_abbreviation(block, end.start()):
                continue
            found.append(block[start : end.end()])
            start = end.end()
        found.append(block[start:])
    return [stripped for sentence in found if (stripped := " ".join(sentence.split()))]


def _is_abbreviation(block: str, dot: int) -> bool:
    start = max(block.rfind(" ", 0, dot), block.rfind("\n", 0, dot)) + 1
    word = block[start:dot].strip("([\"'“‘").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i")


def divided_paragraphs(text: str) -> list[str] | None:
    """Split at the divider `***`; an empty first or last part doesn't count, an empty inner one spoils it (None)."""
    parts = _DIVIDER.split(text)
    if parts and not parts[0].strip():
        parts = parts[1:]
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return parts if all(part.strip() for part in parts) else None


def count_word(text: str, keyword: str) -> int:
    """Count occurrences of a keyword, as part of longer words too, ignoring case."""
    return len(re.findall(re.escape(keyword.strip()), text, flags=re.IGNORECASE))


def related(count: int, relation: str, threshold: int) -> bool:
    """Compare a count as `at least`, `less than` (IFEval's relations), `at most`, `more than` or `exactly`."""
    relations: dict[str, bool] = {
        "at least": count >= threshold,
        "less than": count < threshold,
        "at most": count <= threshold,
        "more than": count > threshold,
        "exactly": count == threshold,
        "around": abs(count - threshold) <= max(1, round(0.1 * threshold)),
    }
    if relation not in relations:
        raise VerifierError("record", f"relation must be one of {', '.join(relations)}, got {relation!r}")
    return relations[relation]


def text_argument(arguments: Arguments, name: str) -> str:
    """Return a text argument; a list of one text counts as that text."""
    value = arguments.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise VerifierError("record", f"constraint argument {name!r} must be a text, got {value!r}")
    return value


def texts_argument(arguments: Arguments, name: str) -> list[str]:
    """Return a list-of-texts argument."""
    value = arguments.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise VerifierError("record", f"constraint argument {name!r} must be a list of texts, got {value!r}")
    return value


def count_argument(arguments: Arguments, name: str) -> int:
    """Return a whole, non-negative number argument (parquet files hold them as floats)."""
    value = arguments.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise VerifierError("record", f"constraint argument {name!r} must be a whole number, got {value!r}")
    return value


@cache
def _detector() -> Any:
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws random samples of the text: the same ones every time
    return langdetect


def language_is(text: str, code: str) -> bool:
    """Tell whether a text is in a language (ISO 639-1 code).

    A text without any letters has no language; as in IFEval, it counts as following.
    """
    detector = _detector()
    try:
        return bool(detector.detect(text[:20_000]) == code)
    except detector.LangDetectException:
        return True
