"""Words, sentences and paragraphs, as the constraints count them. All functions take time linear in the text."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from unicodedata import normalize

from nemo_cascade.rewards.language import script_of
from nemo_cascade.rewards.verifier import VerifierError

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:[-.'’,](?:(?<!,)|(?<=\d,)(?=\d))\w+)*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?|^[ \t]*\* \* \*[ \t]*$", re.MULTILINE)
# Whole runs of marks, whatever follows: a pattern that looks at what follows takes time quadratic in a run's length.
_MARKS = re.compile(r"[.!?…。！？।॥؟۔]++[\"'”’)\]」』]*+")
_WIDE_MARKS = frozenset("。！？")
# Few marks: putting a long run of them in order takes time quadratic in its length.
_MARKED_LETTER = re.compile(r"[^\W\d_][\u0300-\u036f]{1,3}")
_LETTERS_WITH_DOTS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_ELLIPSES = frozenset({"...", "…", "...."})
_MOST_ABBREVIATED = 12
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "capt", "lt", "gen", "sen", "rep", "rev", "jr", "sr", "co", "inc", "ltd",
    "corp", "vs", "etc", "e.g", "i.e", "cf", "vol", "approx", "dept",
})  # fmt: skip
_BEFORE_NUMBERS = frozenset({"no", "nos", "fig", "figs", "eq", "pp", "ch", "sec"})


def plain_text(text: str) -> str:
    r"""Return a text with `\n` for every line's end, letters composed, and no byte order mark before it."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return text if text.isascii() else _MARKED_LETTER.sub(lambda letter: normalize("NFC", letter[0]), text)


def words(text: str) -> list[str]:
    """Return runs of letters, digits and underscores (IFEval's way of counting words)."""
    return _WORD.findall(text)


def tokens(text: str) -> list[str]:
    """Return words without punctuation.

    Hyphens, apostrophes and dots inside a word don't split it, nor do commas inside a number.
    """
    return _TOKEN.findall(text)


@lru_cache(maxsize=8)  # several constraints of a row ask for the sentences of the same answer
def sentences(text: str) -> tuple[str, ...]:
    """Split into sentences after `.`, `!`, `?` and their like.

    No sentence ends after a common abbreviation (of some only before a number: `No. 5`), a single initial, the number
    of a list's item, an ellipsis that goes on in small letters, or inside a number or an address. A line break in the
    middle of a sentence is a space; an empty line ends one.
    """
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        start = 0
        for end in _MARKS.finditer(block):
            mark, after = end.group(), block[end.end() : end.end() + 2]
            if after and not after[0].isspace() and mark[0] not in _WIDE_MARKS:
                continue
            if mark == "." and _is_abbreviation(block, end.start()):
                continue
            if mark in _ELLIPSES and after.strip()[:1].islower():
                continue
            found.append(block[start : end.end()])
            start = end.end()
        found.append(block[start:])
    return tuple(stripped for sentence in found if (stripped := " ".join(sentence.split())))


def _is_abbreviation(block: str, dot: int) -> bool:
    pieces = block[max(dot - _MOST_ABBREVIATED - 1, 0) : dot].split()
    if not pieces or len(pieces[-1]) > _MOST_ABBREVIATED:  # a word that is longer than any abbreviation
        return False
    word = pieces[-1].strip("([\"'“‘*_").lower()
    if word in _BEFORE_NUMBERS:
        return block[dot + 1 : dot + 3].strip()[:1].isdecimal()
    if word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i"):
        return True
    if word.isdecimal():  # at the beginning of a line
        return not block[max(dot - len(word) - _MOST_ABBREVIATED, 0) : dot - len(word)].rpartition("\n")[2].strip()
    if "." not in word or not _LETTERS_WITH_DOTS.fullmatch(word):
        return False
    return block[dot + 1 : dot + 3].strip()[:1].islower()  # p.s. so, a.m. so


def divided_paragraphs(text: str) -> list[str] | None:
    """Split at the divider `***`, or `* * *` on a line of its own, as some prompts write it.

    An empty first or last part doesn't count, an empty inner one spoils it (None).
    """
    parts = _DIVIDER.split(text)
    if parts and not parts[0].strip():
        parts = parts[1:]
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return parts if all(part.strip() for part in parts) else None


def blank_line_paragraphs(text: str) -> list[str]:
    """Split at empty lines, however many."""
    return [part.strip() for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


@lru_cache(maxsize=256)
def keyword_pattern(keyword: str) -> re.Pattern[str]:
    """Return the pattern of a keyword as a whole word, ignoring case.

    Only of languages that set words apart by blanks and don't join particles to them: at another letter the word may
    go on (Chinese, Thai, Korean, Arabic, ...). Underscores around a word are emphasis, within one they join it.
    """
    word = keyword.strip()
    before = r"(?<![^\W_])(?<![^\W_]_)" if _stands_apart(word[:1]) else ""
    after = r"(?![^\W_])(?!_[^\W_])" if _stands_apart(word[-1:]) else ""
    spelled = re.sub("['’]", "['’]", re.escape(word))
    return re.compile(f"{before}{spelled}{after}", re.IGNORECASE)


def _stands_apart(char: str) -> bool:
    script = script_of(char)
    return script in ("LATIN", "GREEK", "CYRILLIC") if script is not None else char.isalnum()


def count_word(text: str, keyword: str) -> int:
    """Count occurrences of a keyword as a whole word, ignoring case."""
    return len(keyword_pattern(keyword).findall(text))


def bare_word(word: str) -> str:
    """Return a word without what stands around it, in small letters."""
    return re.sub(r"[^\w\s'’-]", "", word).replace("’", "'").strip("'-_").lower()


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
    return plain_text(value)


def texts_argument(arguments: Arguments, name: str) -> list[str]:
    """Return a list-of-texts argument; a text alone counts as a list of one."""
    value = arguments.get(name)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise VerifierError("record", f"constraint argument {name!r} must be a list of texts, got {value!r}")
    return [plain_text(text) for text in value]


def count_argument(arguments: Arguments, name: str) -> int:
    """Return a whole, non-negative number argument (parquet files hold them as floats)."""
    value = arguments.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise VerifierError("record", f"constraint argument {name!r} must be a whole number, got {value!r}")
    return value
