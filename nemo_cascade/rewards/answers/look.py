r"""The plain look of LaTeX: one spelling for what is written in several ways, and no signs that hide what they are."""

import re
import unicodedata
from fractions import Fraction

_LOOK_ALIKE = {
    "−": "-", "–": "-", "—": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/",
    "⁄": "/", "∕": "/", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ",
    "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ", "∅": r"\emptyset ", "∈": r"\in ", "∉": r"\notin ", "∖": r"\setminus ", "→": r"\to ",
    "°": r"^{\circ}", "º": r"^{\circ}", "℃": r"^{\circ}C", "℉": r"^{\circ}F", "′": "'", "’": "'", "∣": "|", "｜": "|",
    "∧": r"\land ", "∨": r"\lor ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "…": r"\ldots ", "⋯": r"\ldots ",
    "，": ", ", "；": "; ", "、": ", ", "：": ":", "（": "(", "）": ")", "［": "[", "］": "]", "｛": r"\{", "｝": r"\}",
    "＝": "=", "＜": "<", "＞": ">", "＋": "+", "／": "/", "％": r"\%", "．": ".", "。": ".", "！": "!", "＄": r"\$",
    "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2004": " ", "\u2005": " ", "\u2006": " ", "\u2007": " ",
    "\u2008": " ", "\u2009": r"\,", "\u200a": " ", "\u202f": r"\,", "\u205f": " ", "\u3000": " ",
    "⌀": r"\emptyset ", "∠": r"\angle ", "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ", "ℓ": "l",
    "ı": r"\imath ", "ⅈ": "i", "ⅇ": "e", "µ": r"\mu ",
}  # fmt: skip
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
# What a root sign stands before: a number, a letter or command, or a bracket, which the parser reads as its operand.
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|\\[a-zA-Z]+ ?|[a-zA-Z])?")
_SUPERSCRIPTS, _SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣⁱ", "₀₁₂₃₄₅₆₇₈₉₋₊ₙₓᵢ"
_LIFTED = re.compile(f"[{_SUPERSCRIPTS}]+"), re.compile(f"[{_SUBSCRIPTS}]+")
_LEVEL = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789-+nxi" * 2)
_SIZES = re.compile(
    r"\\(?:left|right|mleft|mright|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?"
    r"|\\(?:display|text|script|scriptscript)style(?![a-zA-Z])"
    r"|\\(?:no)?limits(?![a-zA-Z])|\\(?:label|tag|vspace|hspace)\*?\s*\{[^{}]*\}"
)
_SPACES = re.compile(
    r"\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|hfill?|allowbreak|newline|null|nobreak|mathstrut|strut|relax"
    r"|nonumber|notag|noindent|centering|par)(?![a-zA-Z])|\\(?:kern|hskip|mkern|mskip)\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|mu)"
    r"|\\[;:>]|~"
)
# Braces that hold nothing, behind a number or bracket: they end a command or set signs apart.
_NOTHING = re.compile(r"(?<=[\d)\]])\{\}|^\{\}(?=[\w^_])")
# Intervals as they're written in France: ]0, 1[ without its ends.
_TURNED = re.compile(
    r"(?:((?<![\w}\])])\])([^\[\]()=]*[,;][^\[\]()=]*)|(\[)([^\[\]]*[,;][^\[\]]*))([\[\]])"
    r"(?=\s*(?:$|[,;.}$)]|\\(?:cup|cap|text|right)|and\b|or\b))"
)
_EMPTY = re.compile(r"(?<![^\W\d_])[Øø](?![^\W\d_])")
_CHOOSE = re.compile(
    r"(?<![\w}\])])(?:\{\})?[_^](?:\{(\w{1,9})\}|(\w)) ?(?:C|\\mathrm ?\{C\}) ?_ ?(?:\{(\w{1,9})\}|(\w))"
)
_JOINED = re.compile(r"(?<=[ -~])([和与且及或])(?=[ -~])")
_ABOUT = re.compile(r"^\s*(?:大?约|≈)\s*(?=[\d\\$-])")
_PLUS_MINUS = re.compile(r"\+/-|^\+-")
_TEX_MATH = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$")
_ROW_SPACING = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm)\s*\]")
_MICRO = re.compile(r"[µμ](?=(?:[mgslLFAVWCJ]|Hz|mol)(?![a-zA-Z]))")
_SQUARE_UNIT = re.compile(r"(?<=\d)\s*(m|cm|mm|km|dm|ft|in|yd)([²³])$")
# A brace that opens and never closes around a table's rows distinguishes cases.
_CASES = re.compile(
    r"\\left\s*\\\{\s*\\begin\{(array|aligned|matrix)\}(?:\{[^{}]*\})?(.*?)\\end\{\1\}\s*\\right\s*\.", re.DOTALL
)
_DAYTIME = re.compile(r"(?<![a-zA-Z])([aApP])\.\s?[mM](?:\.|(?![a-zA-Z]))")
_PER_CENT = re.compile(r"(?<![a-zA-Z])per cent(?![a-zA-Z])")
_BARRED, _DOTTED = re.compile("((?:\\d\u0305)+)"), re.compile("(\\d)\u0307")
# Plain TeX: switches inside braces, fractions written by what stands over what.
_SWITCH = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)\s+([^{}]*)\}")
_OVER = re.compile(r"\{([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)\}")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_WHITE = re.compile(r"[ \t\n\r]+")
_ENCLOSED = range(0x2460, 0x2500)


def plain_look(latex: str) -> str:
    r"""Return LaTeX in one spelling: Unicode signs as commands, no sizes, no dollar signs, single blanks, no final dot.

    What separates numbers is kept: thin spaces (`\,`), negative spaces (`\!`), blanks.
    """
    if not latex.isascii():
        latex = _MICRO.sub("u", unicodedata.normalize("NFC", latex))
        latex = _SQUARE_UNIT.sub(lambda unit: f"\\text{{ {unit[1]}}}^{2 if unit[2] == '²' else 3}", latex)
        latex = _ABOUT.sub("", latex)
        latex = _JOINED.sub(r" \1 ", _EMPTY.sub("∅", latex))
        latex = "".join(_LOOK_ALIKE.get(char) or _greek(char) for char in latex)
        latex = _BARRED.sub(lambda run: f"\\overline{{{run[1].replace(chr(0x305), '')}}}", latex)
        latex = _DOTTED.sub(r"\\dot{\1}", latex)
        for pattern, sign in zip(_LIFTED, "^_", strict=True):
            latex = pattern.sub(lambda run, sign=sign: f"{sign}{{{run.group().translate(_LEVEL)}}}", latex)  # type: ignore[misc]
        latex = _ROOT.sub(_root, latex)
        latex = "".join(_vulgar(char) for char in latex)
    latex = _SWITCH.sub(r"\\text{\1}", latex)
    latex = _OVER.sub(lambda m: f"\\{'frac' if m[2] == 'over' else 'binom'}{{{m[1]}}}{{{m[3]}}}", latex)
    latex = _CASES.sub(r"\\begin{cases}\2\\end{cases}", latex)
    if "\\\\begin" in latex:
        latex = latex.replace("\\\\", "\\")
    elif "\\begin" not in latex:
        latex = _DOUBLED.sub(r"\\", latex)  # escaped twice: outside of a table there is no line to break
    latex = _SPACES.sub(" ", _SIZES.sub(" ", _ROW_SPACING.sub(r"\\\\ ", latex)))
    latex = _CHOOSE.sub(lambda m: f"\\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", latex)
    latex = _NOTHING.sub("", _TEX_MATH.sub(" ", latex))
    if "[" in latex or "]" in latex:
        latex = _TURNED.sub(_interval, latex)
    latex = _PLUS_MINUS.sub(r"\\pm ", latex)
    latex = _PER_CENT.sub("percent", _DAYTIME.sub(r"\1m", _WHITE.sub(" ", latex).strip()))
    for mark in ("**", "`"):
        if latex.startswith(mark) and latex.endswith(mark) and len(latex) > 2 * len(mark):
            latex = latex[len(mark) : -len(mark)].strip()
    while latex and latex[-1] in ".,;\\ " and not latex.endswith("..."):  # a sentence's end, a line break's
        latex = latex[:-1]
    return latex


def _interval(match: re.Match[str]) -> str:
    opening, inside, closing = match[1] or match[3], match[2] or match[4], match[5]
    return f"{'(' if opening == ']' else '['}{inside}{')' if closing == '[' else ']'}"


def _root(match: re.Match[str]) -> str:
    operand = match[2]
    return f"\\sqrt{_ROOTS[match[1]]}" + (f"{{{operand}}}" if operand else "")


def _vulgar(char: str) -> str:
    """Return the command of a vulgar fraction such as ⅓ or of an upright Greek letter, any other character as it is."""
    if char.isascii() or unicodedata.category(char) != "No" or "FRACTION" not in unicodedata.name(char, ""):
        return char
    value = Fraction(unicodedata.numeric(char)).limit_denominator(1000)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _greek(char: str) -> str:
    """Return the command of a Greek letter, the letter behind a mathematical alphabet's sign, or the character."""
    if char.isascii():
        return char
    name = unicodedata.name(char, "")
    if name.startswith("MATHEMATICAL ") and unicodedata.category(char).startswith("L"):
        char = unicodedata.normalize("NFKC", char)
        if char.isascii():
            return char
        name = unicodedata.name(char, "")
    words = name.split(" ")
    if (
        words[0] != "GREEK"
        or len(words) not in (4, 5)
        or words[2] != "LETTER"
        or (len(words) == 5 and words[3] != "FINAL")
    ):
        return "\\phi " if char in "ϕ" else char
    command = words[-1].lower().replace("lamda", "lambda")
    return f"\\{command if words[1] == 'SMALL' else command.capitalize()} "


def hidden_characters(text: str) -> str | None:
    """Name the first character that doesn't show what it is, or None.

    Control characters, invisible and bidirectional formatting, and digits of other scripts let an answer look like
    one thing to a reader and like another to a parser. Fractions and enclosed numbers (①) show what they are.
    """
    for char in text:
        if char.isascii() and char.isprintable():
            continue
        kind = unicodedata.category(char)
        named = kind == "No" and (ord(char) in _ENCLOSED or "FRACTION" in unicodedata.name(char, ""))
        disguised_digit = kind in ("Nd", "No") and not named and not char.isascii()
        if (kind in ("Cc", "Cf", "Cs", "Co", "Cn") and char not in "\t\n\r") or disguised_digit:
            return f"U+{ord(char):04X}"
    return None
