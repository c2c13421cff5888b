"""Find the replies of a conversation in its text.

To prove a reply, what was said before it is rendered twice; for every step of a long tool episode that would take time
that grows with the square of the steps. So of many replies some are proven (the first and the last few, and some
between them), and the others are found by their surroundings: behind the header that stands in front of every proven
reply to a turn of the same kind, up to the token that ends a reply, in front of the next proven reply, with all that it
says in it. Header and end hold control tokens, which no message holds. A reply that isn't found so is proven like the
others, and so are all of a kind of which one isn't proven.
"""

from collections.abc import Sequence

from blake3 import blake3

from nemo_cascade.data.chat.templates.proof import Proofs, Reply
from nemo_cascade.data.chat.templates.turns import Turn

_AT_THE_ENDS, _BETWEEN = 4, 7
_REWRITTEN = "is written in another way once other turns follow"


def find_replies(whole: str, turns: Sequence[Turn], proofs: Proofs) -> dict[int, Reply | str]:
    """Find every reply in a conversation's text.

    Args:
        whole: the text.
        turns: the conversation, or the beginning of it.
        proofs: of the conversation.

    Returns:
        By number of turn, where a reply stands, or why it can't be proven to stand there.
    """
    replies = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    found: dict[int, Reply | str] = {}
    headers: dict[tuple[str, bool], str | None] = {}
    beginnings = _Beginnings(whole)
    for i in _chosen(replies):
        reply = proofs.reply(i, whole if i + 1 == len(turns) else None)
        header = None
        if isinstance(reply, Reply):
            stands = whole.startswith(reply.text, reply.begin) and reply.prompt == beginnings.hash(reply.begin)
            reply = reply if stands else _REWRITTEN
            header = _header(whole, turns[i - 1], reply, proofs) if isinstance(reply, Reply) else None
        found[i] = reply
        if headers.setdefault(_kind(turns, i), header) != header:
            headers[_kind(turns, i)] = None
    proven = {i: reply for i, reply in found.items() if isinstance(reply, Reply)}
    stop = 0
    for i in replies:
        if i not in found:
            header = headers.get(_kind(turns, i))
            before = next((reply.begin for n, reply in proven.items() if n > i), len(whole))
            located = proofs.located(i, whole, header, stop, before) if header else None
            found[i] = located or _proven(i, whole, proofs)
        reply = found[i]
        stop = reply.stop if isinstance(reply, Reply) else stop
    return dict(sorted(found.items()))


class _Beginnings:
    """Hashes of a text's beginnings, in the order of their lengths: each goes on from the one before."""

    def __init__(self, text: str) -> None:
        self._text, self._done, self._hasher = text, 0, blake3()

    def hash(self, end: int) -> bytes:
        """Return the hash of the first `end` characters."""
        if end < self._done:
            self._done, self._hasher = 0, blake3()
        self._hasher.update(self._text[self._done : end].encode())
        self._done = end
        return self._hasher.digest()


def _chosen(replies: Sequence[int]) -> list[int]:
    """Choose the replies that are proven by rendering."""
    if len(replies) <= 2 * _AT_THE_ENDS + _BETWEEN:
        return list(replies)
    inner = {len(replies) * n // (_BETWEEN + 1) for n in range(1, _BETWEEN + 1)}
    ends = {*range(_AT_THE_ENDS), *range(len(replies) - _AT_THE_ENDS, len(replies))}
    return [replies[n] for n in sorted(inner | ends)]


def _kind(turns: Sequence[Turn], i: int) -> tuple[str, bool]:
    return turns[i - 1].role, turns[i].reasoning is not None


def _header(whole: str, before: Turn, reply: Reply, proofs: Proofs) -> str | None:
    """Return what stands between a turn and the reply to it; None where no control token does."""
    for content in (before.content, before.content.strip()):
        begin = whole.rfind(content, 0, reply.begin) if content else -1
        header = whole[begin + len(content) : reply.begin]
        if begin >= 0 and proofs.holds_control(header):
            return header
    return None


def _proven(i: int, whole: str, proofs: Proofs) -> Reply | str:
    reply = proofs.reply(i)
    if isinstance(reply, Reply) and not reply.stands_in(whole):
        return _REWRITTEN
    return reply
