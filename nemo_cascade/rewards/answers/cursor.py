"""A place in a list of tokens, moved by a parser."""

from nemo_cascade.rewards.answers.node import Unreadable
from nemo_cascade.rewards.answers.tokens import Token

_END = Token("end", "")
_DEEPEST = 32


class Cursor:
    """Reads tokens one by one.

    Args:
        tokens: all tokens of an answer, or of a part of it.
        depth: how many brackets are open around them.
    """

    def __init__(self, tokens: list[Token], depth: int = 0) -> None:
        self.tokens, self.at, self.depth = tokens, 0, depth

    def peek(self, ahead: int = 0) -> Token:
        """Return a token without moving; `end` behind the last."""
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else _END

    def take(self) -> Token:
        """Return the next token and move behind it."""
        token = self.peek()
        self.at += 1
        return token

    def sees(self, *signs: str) -> bool:
        """Tell whether the next token is one of these signs."""
        token = self.peek()
        return token.kind == "sign" and token.text in signs

    def accept(self, *signs: str) -> bool:
        """Move behind the next token if it is one of these signs."""
        if self.sees(*signs):
            self.at += 1
            return True
        return False

    def expect(self, *signs: str) -> str:
        """Move behind the next token, which must be one of these signs, and return it.

        Raises:
            Unreadable: it isn't.
        """
        token = self.take()
        if token.kind != "sign" or token.text not in signs:
            raise Unreadable(f"{token.text or 'the end'} in place of {signs[0]}")
        return token.text

    def put_back(self, token: Token) -> None:
        """Set the next token anew: what is left of one that was taken in part."""
        self.at -= 1
        self.tokens[self.at] = token

    def deeper(self) -> None:
        """Count a bracket that opens.

        Raises:
            Unreadable: too many are open.
        """
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable(f"more than {_DEEPEST} brackets in one another")
