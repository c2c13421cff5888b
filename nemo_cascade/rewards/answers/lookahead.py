r"""Look ahead in the tokens of an answer: where an item ends, what begins another factor."""

from nemo_cascade.rewards.answers.cursor import Cursor
from nemo_cascade.rewards.answers.node import Unreadable
from nemo_cascade.rewards.answers.tokens import Token
from nemo_cascade.rewards.answers.words import DEGREES, PLAIN_UNITS

CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "<<": ">>", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ENDS = frozenset({")", "]", "}", "\\}", ">>", "\\rfloor", "\\rceil", "\\\\", "&", "iff"})


class Lookahead(Cursor):
    """Knows the brackets that are open around the next token.

    Attributes:
        bars: of each open bracket, whether it is a bar, which the next bar closes.
        in_set: of each open bracket, whether it is a set's, in which a bar or colon ends the item.
    """

    def __init__(self, tokens: list[Token], depth: int = 0) -> None:
        super().__init__(tokens, depth)
        self.bars, self.in_set = [0], [False]

    def at_end_of_item(self) -> bool:
        """Tell whether nothing of the present item is left."""
        token = self.peek()
        if token.kind in ("end", "sep") or (token.kind == "env" and token.text.startswith("end")):
            return True
        if token.kind != "sign":
            return False
        if token.text == ":":
            return self.in_set[-1]
        return token.text in _ENDS or (token.text in ("|", "||") and bool(self.bars[-1] or self.in_set[-1]))

    def last_of_item(self, ahead: int) -> bool:
        """Tell whether nothing of the item is left so many tokens ahead."""
        self.at += ahead
        last = self.at_end_of_item()
        self.at -= ahead
        return last

    def starts_factor(self) -> bool:
        """Tell whether the next token begins another factor of a product."""
        token = self.peek()
        if token.kind in ("num", "letter", "letters", "const", "call", "command", "big"):
            return True
        if token.kind == "env":
            return token.text.startswith("begin")
        if token.kind != "sign":
            return False
        if token.text in ("|", "||"):
            return not self.bars[-1] and not self.in_set[-1]
        return token.text in CLOSING

    def opens_words(self) -> bool:
        """Tell whether a bracket opens that begins with a word: `(inches of snow)`, `(base 5)`."""
        inside = self.peek(1)
        if inside.kind == "letters" and self.peek(2).text == ")":
            return inside.text in PLAIN_UNITS or (len(inside.text) > 2 and self.peek().spaced)
        return inside.kind == "word" or (inside.kind == "letters" and len(inside.text) > 2 and self.peek().spaced)

    def sees_degrees(self) -> bool:
        """Tell whether the next token is the word for degrees, of no scale of temperature."""
        following = self.peek(1)
        scale = following.kind in ("word", "letters") or (following.kind == "letter" and following.text in "CFK")
        return self.peek().kind == "word" and self.peek().text.casefold() in DEGREES and not scale

    def accept_raised(self, *texts: str) -> bool:
        """Move behind what is raised if it is one of these letters or words."""
        braced = self.sees("{")
        if self.peek(braced).text not in texts or (braced and self.peek(2).text != "}"):
            return False
        self.at += 3 if braced else 1
        return True

    def subscript(self) -> str:
        """Return what is lowered, as text without blanks.

        Raises:
            Unreadable: nothing is, or its brace never closes.
        """
        if not self.accept("{"):
            token = self.take()
            if token.kind in ("end", "sep"):
                raise Unreadable("nothing is lowered")
            return token.text
        depth, texts = 1, list[str]()
        while True:
            token = self.take()
            if token.kind == "end":
                raise Unreadable("a brace that never closes")
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(texts)
            texts.append(token.text if token.text not in "{}" else "")
