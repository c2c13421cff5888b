"""Text reduced to what copies of it share: words without case, punctuation, spacing and script of digits, hashed.

Shapes: m words of one text, n words of an n-gram.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from nemo_cascade.data.chat.conversation import said_in_call, texts_of
from nemo_cascade.data.chat.mode_flags import without_flag

UInt64 = NDArray[np.uint64]

WORDS_VERSION = 3
"""Raised with every change of what counts as the same word: it is part of the key of everything made of them."""
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
# Scripts without spaces: each character is a word. Thai, Lao, Tibetan, Myanmar, Khmer; kana, bopomofo, Han.
_UNSPACED = re.compile(
    "([\u0e01-\u0e2e\u0e81-\u0eae\u0f40-\u0f6c\u1000-\u102a\u1780-\u17b3"
    "\u3040-\u30ff\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
# An underscore is emphasis in Markdown, and a subscript in LaTeX.
_WORD = re.compile(r"[^\W_]+")
_TO_SPACE = {code: " " for code in range(128) if not chr(code).isalnum()}
# Characters that nobody sees: soft hyphens, joiners, marks of direction, selectors of a glyph's variant.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]+")
# Unicode's compatibility forms would make 22 of 2 squared.
_RAISED = {
    ord(raised): f"^{plain}"
    for raised, plain in zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789", strict=True)
}
# Odd, so that multiplying by it loses nothing modulo 2^64 (2^64 over the golden ratio).
_STEP = 0x9E3779B97F4A7C15
_MOST_KNOWN = 1 << 18


def canonical(text: str) -> str:
    """Return a text in one of the spellings that count as exactly the same.

    Compatibility forms are unified (NFKC), but for raised digits, which are written `^2`; digits of any script are 0-9,
    case is folded, white space is one space, what nobody sees is left out. Punctuation stays: `2 + 2` isn't `2 - 2`.
    """
    return " ".join(_folded(text).split())


def words(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    folded = _folded(text)
    if folded.isascii():
        return folded.translate(_TO_SPACE).split()
    return _WORD.findall(_UNSPACED.sub(r" \1 ", folded))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    unified = unicodedata.normalize("NFKC", _UNSEEN.sub("", text).translate(_RAISED))
    return _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), unified).casefold()


class WordHashes(dict[str, int]):
    """Hashes of words (xxh3, 64 bits), those met before looked up."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MOST_KNOWN:
            self.clear()
        value = self[word] = xxhash.xxh3_64_intdigest(word.encode(errors="surrogatepass"))
        return value

    def of(self, text: str) -> UInt64:
        """Hash the words of a text, [m]."""
        found = words(text)
        return np.fromiter(map(self.__getitem__, found), np.uint64, len(found))


def ngram_hashes(word_hashes: UInt64, n: int) -> UInt64:
    """Hash each run of n words, [m - n + 1]; empty if there are fewer."""
    count = len(word_hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    # Horner's rule: the same words in another order hash to something else.
    total = word_hashes[:count].copy()
    for i in range(1, n):
        total *= np.uint64(_STEP)
        total += word_hashes[i : i + count]
    # The multiplication carries upwards only; bring the high bits down, where tables look.
    total ^= total >> np.uint64(32)
    total *= np.uint64(_STEP)
    total ^= total >> np.uint64(29)
    return total


def text_hash(text: str) -> int:
    """Hash a text's canonical spelling; two of ten million texts collide with a probability of 3e-6."""
    return xxhash.xxh3_64_intdigest(canonical(text).encode(errors="surrogatepass"))


def conversation_text(messages: Any) -> str:
    """Join the texts of a conversation's turns: reasoning, content and tool calls, as they are and not as JSON."""
    parts: list[str] = []
    for message in messages:
        for name in ("reasoning_content", "content"):
            parts += filter(None, texts_of(message.get(name)))
        for call in message.get("tool_calls") or ():
            parts += texts_of(said_in_call(call))
    return "\n".join(parts)


def exactly_said(messages: Any) -> str:
    """Return what a conversation says, and in which turns: who speaks, thinks, calls, and what isn't trained."""
    marks: list[str] = []
    for message in messages:
        marks.append(str(message.get("role")))
        marks += [name for name in ("reasoning_content", "tool_calls") if message.get(name)]
        marks += ["untrained"] if message.get("trained") is False else []
    return f"{' '.join(marks)} \0 {conversation_text(messages)}"


def questions(messages: Any) -> list[str]:
    """Return the texts of a conversation's user turns, without their mode flags; those that say something."""
    texts = [_text(m.get("content")) for m in messages if m.get("role") == "user"]
    return [question for text in texts if (question := without_flag(text)).strip()]


def _text(content: Any) -> str:
    """Return a message's text, which may lie there in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def row_questions(row: Mapping[str, Any]) -> list[str]:
    """Return the questions of a row: the user turns of its messages, or its column of a usual name; empty if none.

    The first column that says something counts; it may be a text or turns.
    """
    for name in ("messages", "prompt", "question", "problem", "input", "instruction", "text", "conversations"):
        given = row.get(name)
        if isinstance(given, str) and given.strip():
            return [without_flag(given)]
        if isinstance(given, Sequence) and given and all(isinstance(m, Mapping) for m in given):
            return questions([_as_message(m) for m in given])
    return []


def _as_message(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn of ShareGPT's form as a message."""
    if "from" not in turn:
        return turn
    return {"role": "user" if turn["from"] in ("human", "user") else turn["from"], "content": turn.get("value")}


def as_asked(asked: Sequence[str]) -> list[str]:
    """Return the questions of a row in all ways in which a prompt may be met: together, and each by itself."""
    return ["\n".join(asked), *(asked if len(asked) > 1 else [])]
