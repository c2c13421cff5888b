"""Find text of a foreign script: the sign of a policy that switches languages in the middle of a thought.

Cascade punishes it: -1 in math reasoning, 0 in code, and far below the batch in RLHF, where any non-English token
answers an English prompt (arXiv 2512.13607, sections 4.3, 4.5 and 4.6). How the paper tells a language isn't said. Here
it is told by its script, so that a verdict is certain: another language in Latin letters isn't seen. A script's own
punctuation and digits tell it as its letters do: no tokenizer spells `。` by an English token.
"""

import re
import unicodedata
from functools import lru_cache

# Scripts that a language writes in; Latin and Greek letters are part of mathematics in every language.
_COMMON = frozenset({"LATIN", "GREEK"})
_SCRIPTS: dict[str, frozenset[str]] = {
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "zh": frozenset({"CJK", "BOPOMOFO"}),
    "ko": frozenset({"HANGUL", "CJK"}),
    "ru": frozenset({"CYRILLIC"}),
    "uk": frozenset({"CYRILLIC"}),
    "bg": frozenset({"CYRILLIC"}),
    "ar": frozenset({"ARABIC"}),
    "fa": frozenset({"ARABIC"}),
    "ur": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "mr": frozenset({"DEVANAGARI"}),
    "ne": frozenset({"DEVANAGARI"}),
    "bn": frozenset({"BENGALI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "kn": frozenset({"KANNADA"}),
    "ml": frozenset({"MALAYALAM"}),
    "gu": frozenset({"GUJARATI"}),
    "pa": frozenset({"GURMUKHI"}),
    "th": frozenset({"THAI"}),
}
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_NON_ASCII_RUN = re.compile(r"[^\x00-\x7f]+")
# Signs of mathematics that Unicode files under letters of another script, such as the Hebrew letters for cardinals.
_MATHEMATICAL = frozenset("ℵℶℷℏℎℓ℘ℜℑℝℕℤℚℂℙ")


# Punctuation that one script, or a group of them, has of its own: first and last code point, the script.
_PUNCTUATION = (
    (0x060C, 0x060C, "ARABIC"), (0x061B, 0x061F, "ARABIC"), (0x066A, 0x066D, "ARABIC"), (0x06D4, 0x06D4, "ARABIC"),
    (0x05BE, 0x05F4, "HEBREW"), (0x0964, 0x0965, "DEVANAGARI"), (0x3001, 0x3020, "CJK"), (0x3030, 0x303F, "CJK"),
    (0xFE30, 0xFE4F, "CJK"), (0xFF01, 0xFF20, "CJK"), (0xFF3B, 0xFF40, "CJK"), (0xFF5B, 0xFF65, "CJK"),
)  # fmt: skip
# Scripts whose languages borrow another's punctuation.
_BORROWED = {
    "CJK": frozenset({"CJK", "HANGUL", "HIRAGANA"}),
    "DEVANAGARI": frozenset({"BENGALI", "GURMUKHI", "GUJARATI"}),
}


@lru_cache(maxsize=65_536)
def script_of(char: str) -> str | None:
    """Return the script of a letter as Unicode names it (`LATIN`, `CJK`, ...), None for what is no letter."""
    if not unicodedata.category(char).startswith("L") or char in _MATHEMATICAL:
        return None
    name = unicodedata.name(char, "")
    if name.startswith(("MATHEMATICAL", "SUPERSCRIPT", "SUBSCRIPT", "MODIFIER", "DOUBLE-STRUCK")):
        return None
    script = name.split(" ")[0].split("-")[0]
    return "LATIN" if script in ("FULLWIDTH", "FEMININE", "MASCULINE", "MICRO", "ANGSTROM", "KELVIN") else script


@lru_cache(maxsize=65_536)
def _script_of_sign(char: str) -> str | None:
    """Return the script whose own punctuation mark or digit a character is, None if it is no such sign."""
    for first, last, script in _PUNCTUATION:
        if first <= ord(char) <= last:
            return script
    if unicodedata.category(char) != "Nd" or char.isascii():
        return None
    script = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return None if script == "MATHEMATICAL" else "ARABIC" if script == "EXTENDED" else script


def foreign_text(text: str, language: str = "en", quoted: str = "") -> str | None:
    """Return the first run of text in a script that the language isn't written in, or None.

    Args:
        text: what is searched, in time linear in its length.
        language: ISO 639-1 code; languages in Latin letters need no entry.
        quoted: text whose characters may be used whatever their script: the prompt, which an answer may quote.
    """
    if text.isascii():
        return None
    allowed = _COMMON | _SCRIPTS.get(language, frozenset())
    free = set(quoted)
    for run in _NON_ASCII_RUN.finditer(text):
        for char in run.group():
            script = script_of(char)
            if script is None and (sign := _script_of_sign(char)) is not None:
                script = None if allowed & _BORROWED.get(sign, frozenset()) else sign
            if script is not None and script not in allowed and char not in free:
                return run.group()[:40]
    return None


def written_in(text: str, language: str = "en") -> bool:
    """Tell whether at least half of the letters outside of fenced code are of the language's scripts.

    A text without letters is. Languages in Latin letters aren't told from each other.

    Args:
        text: such as a prompt.
        language: ISO 639-1 code, as for `foreign_text`.
    """
    own = _SCRIPTS.get(language, _COMMON)
    scripts = [script for char in _CODE.sub("", text) if (script := script_of(char)) is not None]
    return sum(script in own for script in scripts) * 2 >= len(scripts)
