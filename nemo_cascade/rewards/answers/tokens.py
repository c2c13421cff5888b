r"""Cut an answer of plain look into tokens: numbers with their separators, letters, commands, words of text, signs."""

import re
from dataclasses import dataclass
from fractions import Fraction

from nemo_cascade.rewards.answers.commands import ACCENTS, NUMBER_SETS, SIGNS, STYLES, TEXT
from nemo_cascade.rewards.answers.node import Unreadable
from nemo_cascade.rewards.answers.words import (
    ALIASES,
    AND,
    CONDITIONS,
    CONSTANTS,
    CURRENCY_SIGNS,
    FUNCTIONS,
    GREEK,
    OR,
    PERCENT,
    PLAIN_UNITS,
    VARIANTS,
)

_UNIT_ENDS = ("", ",", ";", ")", "}", "]", "/", "^", ".")  # what may stand behind a unit
_SHORTEST_WORD = 5  # letters side by side that are no product of variables
_SHORTEST_NAME = 3  # the same of a capital and small letters, such as `June`
_DAYTIMES = ("AM", "PM")
_LENGTHS = ("mm", "cm", "dm", "km", "kg", "ft")  # units behind a group, where others may be products
_BASE_OF_LOG = re.compile(r"\d{1,2}(?=\()")
_CURRENCIES = {"pounds": "£", "euro": "€", "yen": "¥", "texteuro": "€"}
_LONGEST_EXPONENT = 5  # digits, with their sign, of the exponent of 1e5
_LONGEST_NUMBER = 4000  # digits; Python reads no longer ones
_SEPARATOR = r"(?:,\s?\\!\s*|,|\s?\{\s*,\s*\}|\\,|\\!|\\ | )"
_GROUPED = re.compile(
    rf"[1-9]\d{{0,2}}(?P<sep>{_SEPARATOR})\d{{3}}(?:(?P=sep)\d{{3}})*(?![\d]|,\d)(?P<decimals>\.\d+)?"
)
_EUROPEAN = re.compile(
    r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+(?![\d,])|(?:\.\d{3}){2,}(?![\d.])|(?:'\d{3})+(?!\d)"
    r"|(?: \d{3})+,(?!\d{3}(?!\d))\d+(?![\d,]))"
)
_INDIAN = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?(?![\d,])")
_REPEATING = re.compile(
    r"(?P<head>\d*\.\d*)(?:\\(?:overline|bar)\s*\{?(?P<bar>\d+)\}?"
    r"|\\dot\s*\{?(?P<first>\d)\}?(?:(?P<middle>\d*)\\dot\s*\{?(?P<last>\d)\}?)?|(?<=\.)\((?P<paren>\d+)\))"
    r"|(?P<start>\d*\.\d{0,12}?)(?P<block>\d{1,12}?)(?P=block)+ ?(?:\.\.\.|\\[lc]?dots(?![a-zA-Z]))"
)
_SCIENTIFIC = re.compile(r"(?P<mantissa>\d+(?:\.\d*)?|\.\d+)[eE](?P<exponent>[+-]?\d+)(?![\d.a-zA-Z])")
_IN_LARGE_BASE = re.compile(r"(?=\d*[A-Z])(?:\d[0-9A-Z]*|[0-9A-Z]{2,})(?=\)?_\s?\{?\s?(?:1[1-9]|2\d|3[0-6])(?!\d))")
_RUN = re.compile(r"[\d.,]*")
_PLAIN = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_LAID_OUT = dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac", "flatfrac"), "frac")
_LAID_OUT |= dict.fromkeys(("binom", "dbinom", "tbinom"), "binom") | {"sqrt": "sqrt"}
_TIMES_X = re.compile(r"\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?\s*|\\(.)", re.DOTALL)
_LETTERS = re.compile(r"[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]+(?:[-'.][^\W\d_]+)*", re.UNICODE)
_CONTRACTION = re.compile(r"[a-zA-Z]{2,}'(?:s|t|d|re|ve|ll)")  # no derivative of a product
_DEEPEST_TEXT = 8
_DIGITS = "0123456789"
_OPERATORS = ("\\\\", "**", "<=", ">=", "!=", "==")


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: num, letter, letters (a run), word (of text, or a unit), const, call, command, big, env, sep (`,` `;`
            `and` `or`), sign.
        text: what it is, in one spelling.
        spaced: whether white space stood before it.
        value: a number's value.
        literal: a decimal number as written, or one whose commas may separate several (48,384).
    """

    kind: str
    text: str
    spaced: bool = False
    value: Fraction | None = None
    literal: str = ""


class Tokenizer:
    """Cuts a text into tokens, in one pass from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._out = text, 0, list[Token]()
        self._brackets = self._depth = 0
        self._roomy = bool(re.search(r",\s", text))
        self._spaced = False

    def tokens(self) -> list[Token]:
        """Return the tokens.

        Raises:
            Unreadable: an unknown character, or a command without what it needs.
        """
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == " ":
                self._at, self._spaced = self._at + 1, True
                continue
            self._token(char)
            self._spaced = False
        return self._out

    def _put(self, kind: str, text: str, value: Fraction | None = None, literal: str = "") -> None:
        self._out.append(Token(kind, text, self._spaced, value, literal))

    def _token(self, char: str) -> None:
        text, at = self._text, self._at
        if match := _IN_LARGE_BASE.match(text, at):
            self._at = match.end()
            self._put("num", match.group(), Fraction(0))
        elif char in _DIGITS or (char == "." and text[at + 1 : at + 2] in _DIGITS and at + 1 < len(text)):
            self._number()
        elif char == "\\":
            self._command()
        elif char.isascii() and char.isalpha():
            self._letters()
        elif char in CURRENCY_SIGNS:
            self._at += 1
            self._put("sign", "$", literal=char)
        elif char.isalpha() or not char.isascii():
            match = _WORD.match(text, at)
            word = match.group() if match else char
            self._at += len(word)
            self._word(word)
        else:
            self._sign(char)

    def _sign(self, char: str) -> None:
        for operator in _OPERATORS:
            factorial = operator == "!=" and self._text[self._at - 1 : self._at] in tuple("0123456789)")  # 7!=5040
            if self._text.startswith(operator, self._at) and not factorial:
                self._at += len(operator)
                self._put("sign", {"**": "^", "==": "="}.get(operator, operator))
                return
        self._at += 1
        if char in ",;":
            self._put("sep", char)
        elif char == '"' or (char == "." and self._at < len(self._text)):
            return  # quotation marks; the dots of an abbreviation
        else:
            self._brackets += (char in "([") - (char in ")]")
            self._put("sign", char)

    def _number(self) -> None:
        text, at = self._text, self._at
        if len(_RUN.match(text, at).group()) > _LONGEST_NUMBER:  # type: ignore[union-attr]
            raise Unreadable("a number without bound")
        if match := _REPEATING.match(text, at):
            self._at = match.end()
            self._put("num", match.group(), _repeating(match))
            return
        if match := _SCIENTIFIC.match(text, at):
            if len(match["exponent"]) > _LONGEST_EXPONENT or len(match["mantissa"]) > _LONGEST_NUMBER:
                raise Unreadable("a number without bound")
            self._at = match.end()
            value = Fraction(match["mantissa"].rstrip(".")) * Fraction(10) ** int(match["exponent"])
            self._put("num", match.group(), value)
            return
        grouped = _GROUPED.match(text, at)
        if grouped and not (self._brackets and not self._roomy and grouped["sep"] == ","):
            self._at = grouped.end()
            digits = re.sub(r"\D", "", grouped.group()[: len(grouped.group()) - len(grouped["decimals"] or "")])
            literal = digits + (grouped["decimals"] or "")
            listed = grouped["sep"] == "," and not grouped["decimals"] and ",0" not in grouped.group()
            written = grouped.group() if listed else literal if grouped["decimals"] else ""
            self._put("num", digits, Fraction(literal), written)
        elif match := _EUROPEAN.match(text, at):
            self._at = match.end()
            literal = re.sub(r"[.' ]", "", match.group()).replace(",", ".")
            self._put("num", literal, Fraction(literal), literal if "." in literal else "")
        elif not self._brackets and (match := _INDIAN.match(text, at)):
            self._at = match.end()
            literal = match.group().replace(",", "")
            written = literal if "." in literal else "" if ",0" in match.group() else match.group()
            self._put("num", literal, Fraction(literal), written)
        else:
            plain = _PLAIN.match(text, at)
            assert plain is not None
            self._at = plain.end()
            literal = plain.group()
            self._put("num", literal, Fraction(literal), literal if "." in literal else "")
        if match := _TIMES_X.match(text, self._at):
            self._at = match.end()
            self._put("sign", "*")

    def _letters(self) -> None:
        match = _LETTERS.match(self._text, self._at)
        assert match is not None
        run = match.group()
        word = _WORD.match(self._text, self._at)
        if word is not None and (not word.group().isascii() or _CONTRACTION.fullmatch(word.group())):
            self._at = word.end()
            self._word(word.group())
            return
        self._at = match.end()
        before = self._out[-1] if self._out else None
        ends = self._text[self._at : self._at + 2].lstrip()[:1] in _UNIT_ENDS
        # A letter, unless it is the name of something.
        if len(run) == 1 or (len(run) >= _SHORTEST_WORD and self._text.startswith("_", self._at)):
            self._put("letter", run)
        elif run in ("and", "or"):
            self._put("sep", run)
        elif run in CONDITIONS:
            self._put("word", run)
        elif run.casefold() in PERCENT:
            self._put("sign", "%")
        elif run == "mod":
            self._put("sign", "mod")
        elif (
            before is not None
            and ends
            and ((before.kind == "num" and run in PLAIN_UNITS) or (before.text == "}" and run in _LENGTHS))
        ):
            self._put("word", run)
        elif run in _DAYTIMES and before is not None and before.kind == "num" and self._spaced:
            self._put("word", run.lower())
        elif run in FUNCTIONS:
            self._put("call", ALIASES.get(run, run))
            if run == "log" and (base := _BASE_OF_LOG.match(self._text, self._at)):  # log2(x)
                self._at = base.end()
                self._put("sign", "_")
                self._put("num", base.group(), Fraction(base.group()))
        elif run in CONSTANTS:
            self._put("const", CONSTANTS[run])
        elif run in GREEK:
            self._put("letter", run)
        elif run[:-1] in FUNCTIONS and run[-1] == "x" and len(run) in (3, 4):  # sinx, lnx
            self._put("call", ALIASES.get(run[:-1], run[:-1]))
            self._put("letter", "x")
        elif run.endswith("pi") and len(run) == 3 and run[0] in "kn":  # kpi
            self._put("letter", run[0])
            self._put("const", "pi")
        else:
            applied = self._text[self._at : self._at + 2].lstrip()[:1] in tuple("(_^'[\\")
            name = run[0].isupper() and run[1:].islower() and len(run) >= _SHORTEST_NAME and not applied
            self._put("word" if name or len(run) >= _SHORTEST_WORD else "letters", run)

    def _word(self, word: str) -> None:
        """Put a word of text: a connective, a percent sign, or itself."""
        folded = word.casefold()
        if folded in AND or folded in OR:
            self._put("sep", "and" if folded in AND else "or")
        elif folded in PERCENT:
            self._put("sign", "%")
        else:
            self._put("word", word)

    def _command(self) -> None:
        match = _COMMAND.match(self._text, self._at)
        if match is None:
            raise Unreadable("a backslash at the end")
        name = match[1] or match[2]
        self._at = match.end()
        if match[1] is None:
            self._escaped(name)
        elif name in ("bf", "it", "sf", "tt", "cal", "rm"):
            return  # a switch to another face
        elif name in TEXT:
            self._text_argument(name)
        elif name in ("pmod",):
            self._put("sign", "mod")
        elif name in STYLES:
            return
        elif name in ("color", "textcolor", "phantom", "hphantom", "vphantom"):
            self._argument()
        elif name in _CURRENCIES:
            self._put("sign", "$", literal=_CURRENCIES[name])
        elif name in SIGNS:
            sign = SIGNS[name]
            self._brackets += (sign in ("[", "<<", "\\{")) - (sign in ("]", ">>", "\\}"))
            self._put("sep" if sign in ("and", "or") else "sign", sign)
        elif name in ("begin", "end"):
            self._put("env", f"{name} {self._argument()}")
        elif name in ("mathbb", "mathds", "Bbb"):
            letter = self._argument()
            self._put("const" if letter in NUMBER_SETS else "letter", letter)
        elif name in ("not",):
            self._put("sign", "not")
        elif name in _LAID_OUT:
            self._put("command", _LAID_OUT[name])
        elif name in FUNCTIONS or name == "arctg":
            self._put("call", ALIASES.get(name, name))
        elif name in CONSTANTS:
            self._put("const", CONSTANTS[name])
        elif name in ("sum", "prod", "int", "iint", "iiint", "oint", "lim", "bigcup", "bigcap", "partial"):
            self._put("big", name)
        elif name in ACCENTS:
            self._accent(name)
        elif name in ("angle", "triangle", "measuredangle", "Delta") and name != "Delta":
            self._put("command", name)
        else:  # Greek letters, and commands that nobody knows, are names
            self._put("letter", VARIANTS.get(name, name))

    def _escaped(self, char: str) -> None:
        if char in "{}":
            self._brackets += 1 if char == "{" else -1
            self._put("sign", f"\\{char}")
        elif char == "\\":
            self._put("sign", "\\\\")
        elif char == "|":
            self._put("sign", "||")
        elif char in "%$&#_":
            if char in "%$":
                self._put("sign", char)
        elif char in ", !":
            self._spaced = True  # so that two numbers stay two
        else:
            raise Unreadable(f"\\{char}")

    def _argument(self) -> str:
        """Take in a group `{...}`, or one character, and return its text."""
        text, at = self._text, self._at
        while at < len(text) and text[at] == " ":
            at += 1
        if at >= len(text):
            raise Unreadable("a command without what it needs")
        if text[at] != "{":
            self._at = at + 1
            return text[at]
        depth = 0
        for end in range(at, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                self._at = end + 1
                return text[at + 1 : end].strip()
        raise Unreadable("a brace that never closes")

    def _text_argument(self, command: str) -> None:
        r"""Put what `\text{...}` holds: a name of mathematics as itself, else words with the numbers among them."""
        content = self._argument().replace("\\ ", " ")
        bare = content.strip("() ")
        if bare in PLAIN_UNITS and self._text[self._at : self._at + 2].lstrip()[:1] not in ("(", "_", "\\"):
            self._put("word", bare)
            return
        if bare in FUNCTIONS and command in ("mathrm", "operatorname", "text", "rm", "mathop"):
            self._put("call", ALIASES.get(bare, bare))
            return
        if bare in ("arctg", "arcsin", "arccos", "arctan"):
            self._put("call", ALIASES.get(bare, bare))
            return
        if command == "mathrm" and len(bare) == 1 and bare.isalpha() and bare == content:
            before = self._out[-1] if self._out else Token("end", "")
            ends = self._text[self._at : self._at + 2].lstrip()[:1] in _UNIT_ENDS
            unit = bare not in "ei" and ends and (before.kind in ("num", "const") or before.text in ("}", ")"))
            self._put("word" if unit else "letter", bare)
            return
        if bare == "i" and self._out and self._out[-1].kind == "num":
            self._put("letter", bare)  # no unit has this sign
            return
        if command == "operatorname":
            self._put("letter", bare)
            return
        if self._depth == _DEEPEST_TEXT:
            raise Unreadable("text in text without end")
        inner = _TextTokenizer(content, self._spaced, self._depth + 1)
        self._out += inner.tokens()

    def _accent(self, name: str) -> None:
        r"""Put an accented symbol as one name; `\hat{i}` is the unit vector i."""
        content = self._argument().replace(" ", "").replace("\\", "")
        if name in ("overset", "underset"):
            return
        if name in ("hat", "widehat") and content in ("i", "j", "k", "imath", "jmath"):
            self._put("letter", content[0])
        elif name == "overline" and len(content) == 2 and content.isupper():  # a segment, by its ends
            self._put("letters", content)
        else:
            self._put(
                "letter", f"{ {'bar': 'overline', 'widehat': 'hat', 'widetilde': 'tilde'}.get(name, name) }({content})"
            )


class _TextTokenizer(Tokenizer):
    """The same in text: letters are words there, and stay together."""

    def __init__(self, text: str, spaced: bool, depth: int) -> None:
        super().__init__(text)
        self._spaced, self._depth = spaced, depth

    def _letters(self) -> None:
        match = _WORD.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        self._word(match.group())


def _repeating(match: re.Match[str]) -> Fraction:
    r"""Return the value of a decimal with a period, such as `0.1\overline{6}`."""
    head = match["head"] or match["start"]
    period = match["bar"] or match["paren"] or match["block"]
    if period is None:
        period = match["first"] + ((match["middle"] or "") + match["last"] if match["last"] else "")
    decimals = len(head) - head.index(".") - 1
    base = Fraction(head if head != "." else "0") if head.strip(".") else Fraction(0)
    return base + Fraction(int(period), (10 ** len(period) - 1) * 10**decimals)
