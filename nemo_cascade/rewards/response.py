"""What a verifier is given to judge: one response, and the parts of it that count."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_cascade.types import FinishReason, Int32

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response as text, with the tokens it came from.

    Attributes:
        text: the decoded response without its end-of-turn token; other special tokens are kept.
        token_ids: [response_tokens], empty where only text is judged.
        finish_reason: stop, length (truncated) or abort.
    """

    text: str
    token_ids: Int32 | Sequence[int] = ()
    finish_reason: FinishReason = FinishReason.STOP


@dataclass(frozen=True, slots=True)
class SplitResponse:
    """A response cut at its thinking block.

    Attributes:
        reasoning: what stands before the last `</think>`, without an opening tag at its start; empty if none.
        answer: what stands after it, as it is; None while the thinking block is still open.
    """

    reasoning: str
    answer: str | None


def split_response(text: str) -> SplitResponse:
    """Cut a response into reasoning and answer.

    The answer is what follows the last `</think>`. A response without either tag is all answer. A response whose
    last tag is `<think>` never finished thinking: it has no answer, whatever it wrote meanwhile.
    """
    opened, closed = text.rfind(THINK_OPEN), text.rfind(THINK_CLOSE)
    if opened > closed:
        return SplitResponse(text[opened + len(THINK_OPEN) :], None)
    if closed < 0:
        return SplitResponse("", text)
    return SplitResponse(text[:closed].removeprefix(THINK_OPEN), text[closed + len(THINK_CLOSE) :])


# Characters that are drawn as nothing though Unicode counts them among letters, signs or marks.
_BLANKS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Me", "Zl", "Zp", "Zs"})


def is_visible(text: str) -> bool:
    """Tell whether a reader would see anything of a text: white space, zero-width, control characters are nothing."""
    return any(unicodedata.category(char) not in _UNSEEN and char not in _BLANKS for char in text)
