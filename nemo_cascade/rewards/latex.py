r"""Read final answers out of LaTeX: the last box, its plain look, and exact numbers."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\-])")
_BARE_BOX = re.compile(r"-?(?:\\[a-zA-Z]+|[\w.]+)")
_PLAIN_NUMBER = re.compile(r"([+-]?) ?(\d{1,3}(?:(?:,|\{,\}|\\,|\\ )\d{3})+|\d+)?(\.\d*)?")
_SEPARATORS = re.compile(r"\{,\}|\\,|\\ |,")
_PERCENT = re.compile(r"\s*\\?%$|\s*\\text\{\s*(?:%|\\%|percent)\s*\}$")
_DECORATION = re.compile(r"\\(?:left|right|bigg?|Bigg?)(?![a-zA-Z])|\\displaystyle|\\[!;:]|\\\$|\$")
_LOOK_ALIKE = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ",
    "√": r"\sqrt ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "∅": r"\emptyset ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∈": r"\in ", "\xa0": " ",
}  # fmt: skip
_SUPERSCRIPTS, _SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "₀₁₂₃₄₅₆₇₈₉₋"
_LIFTED = re.compile(f"[{_SUPERSCRIPTS}]+"), re.compile(f"[{_SUBSCRIPTS}]+")
_LEVEL = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789-" * 2)
# White space that separates no two words or numbers.
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z\\])[ \t\n]+|[ \t\n]+(?![0-9A-Za-z])")
_LONGEST_NUMBER = 400


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` (or `\fbox{...}`), None if there is none or it never closes.

    `\boxed 7` and `\boxed\pi` count as boxes around one word.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    begin = starts[-1]
    if text[begin] != "{":
        word = _BARE_BOX.match(text, begin)
        return word.group() if word else None
    depth = 0
    for position in range(begin, len(text)):
        char = text[position]
        if char in "{}" and text[position - 1] != "\\":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[begin + 1 : position]
    return None


def plain_look(latex: str) -> str:
    r"""Remove what changes only an answer's look: idle white space, sizing, dollar signs, a final dot.

    Common Unicode signs of mathematics, Greek letters, raised and lowered digits become their commands.
    """
    if not latex.isascii():
        for pattern, sign in zip(_LIFTED, "^_", strict=True):
            latex = pattern.sub(lambda run, sign=sign: f"{sign}{{{run.group().translate(_LEVEL)}}}", latex)  # type: ignore[misc]
        latex = "".join(_LOOK_ALIKE.get(char) or _greek(char) for char in latex)
    latex = _DECORATION.sub("", latex).replace(r"\varnothing", r"\emptyset")
    return _IDLE_SPACE.sub("", latex.strip().removesuffix(".").strip())


def _greek(char: str) -> str:
    """Return the command of a Greek letter, any other character as it is."""
    name = unicodedata.name(char, "").split(" ")
    if name[0] != "GREEK" or len(name) != 4 or name[2] != "LETTER":
        return char
    command = name[3].lower().replace("lamda", "lambda")
    return f"\\{command if name[1] == 'SMALL' else command.capitalize()} "


def hidden_characters(text: str) -> str | None:
    """Name the first character that doesn't show what it is, or None.

    Control characters, invisible and bidirectional formatting, and digits of other scripts let an answer look like
    one thing to a reader and like another to a parser.
    """
    for char in text:
        kind = unicodedata.category(char)
        disguised_digit = kind in ("Nd", "No") and not char.isascii()
        if (kind in ("Cc", "Cf", "Cs", "Co", "Cn") and char not in "\t\n\r") or disguised_digit:
            return f"U+{ord(char):04X}"
    return None


def plain_number(latex: str) -> Fraction | None:
    """Return the exact value of an integer or decimal such as `-1,234.50`; None for anything else.

    Commas count as separators only between groups of three digits.
    """
    if not latex.isascii() or len(latex) > _LONGEST_NUMBER:
        return None
    match = _PLAIN_NUMBER.fullmatch(latex)
    if match is None or not (match[2] or (match[3] and len(match[3]) > 1)):
        return None
    whole, decimals = _SEPARATORS.sub("", match[2] or "0"), (match[3] or ".")[1:]
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    return -value if match[1] == "-" else value


def split_percent(latex: str) -> tuple[str, bool]:
    """Return an answer without its final percent sign, and whether it had one."""
    bare = _PERCENT.sub("", latex)
    return bare, bare != latex
