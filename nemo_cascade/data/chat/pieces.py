r"""Encode text with a byte-level BPE tokenizer several times faster, to the same ids: piece by piece, each looked up.

Such a tokenizer first cuts a text into pieces (words, mostly) by a regular expression and encodes each by itself. Text
repeats its pieces, so nearly all of them are found in a table of what the tokenizer made of them before; only what is
met for the first time goes through it. Two things make the cuts exact:

- Of ASCII text the expression means the same to Python's `re` once \p{L}, \p{N} and \s are spelled out.
- The known expressions always cut in front of a space that follows a non-space and precedes a letter, whatever stands
  further away. So what isn't ASCII is enclosed between the nearest such places, a word or a few, goes to the tokenizer
  as one piece, and the ASCII around it isn't touched.

A tokenizer with another expression isn't helped: `piece_encoder` returns None.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from nemo_cascade.types import Int32

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN = (_GPT2, _QWEN, _LLAMA3, _TEKKEN)
_ASCII_CLASSES = {"L": "A-Za-z", "N": "0-9", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": ""}
# Python's own \s holds four control characters more.
_SPACES = "\t\n\x0b\x0c\r "
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_MOST_PIECES, _LONGEST_PIECE = 1 << 18, 64


class PieceEncoder(dict[str, bytes]):
    """The ids of all pieces met so far, as the bytes of an int32 array.

    Args:
        backend: the tokenizer, without padding and truncation.
        pattern: cuts ASCII text into pieces.
        added: cuts out added tokens, which come before everything else; None if there are none.
    """

    def __init__(self, backend: Tokenizer, pattern: re.Pattern[str], added: re.Pattern[str] | None) -> None:
        super().__init__()
        self._backend, self._cut, self._added = backend, pattern.findall, added

    def __missing__(self, piece: str) -> bytes:
        ids = np.asarray(self._backend.encode(piece, add_special_tokens=False).ids, np.int32).tobytes()
        if len(piece) <= _LONGEST_PIECE:
            if len(self) >= _MOST_PIECES:
                self.clear()
            self[piece] = ids
        return ids

    def ids(self, text: str) -> Int32:
        """Encode a text, added tokens in it included. Shape [tokens]."""
        found = b"".join(map(self.__getitem__, self._pieces(text)))
        return np.frombuffer(found, np.int32)

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        parts = self._added.split(text) if self._added else (text,)
        for number, part in enumerate(parts):
            if number % 2:
                pieces.append(part)
            elif part.isascii():
                pieces += self._cut(part)
            else:
                for span, foreign in _spans(part):
                    if foreign:
                        pieces.append(span)
                    else:
                        pieces += self._cut(span)
        return pieces


def piece_encoder(backend: Tokenizer) -> PieceEncoder | None:
    """Return the encoder of a tokenizer, or None where its pieces can't be told exactly."""
    facts = json.loads(backend.to_str())
    pattern, added = _pattern(facts), facts["added_tokens"]
    plain = facts["model"]["type"] == "BPE" and not facts["model"]["dropout"]
    bare = all(not (a["lstrip"] or a["rstrip"] or a["single_word"] or a["normalized"]) for a in added)
    if pattern is None or not plain or not bare or (facts["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return None
    longest_first = sorted((a["content"] for a in added), key=len, reverse=True)
    found = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if added else None
    return PieceEncoder(backend, pattern, found)


def _pattern(facts: dict[str, Any]) -> re.Pattern[str] | None:
    """Return the expression that cuts ASCII text, or None where it isn't one of the known."""
    steps = facts["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *before, last = steps
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if before == [] and last["use_regex"]:
        return re.compile(_for_ascii(_GPT2))
    if before == [{"type": "Digits", "individual_digits": True}] and last["use_regex"]:
        # Digits are cut out first, so that to the expression the text ends in front of each.
        apart = _for_ascii(_GPT2).replace("(?![^", "(?![^0-9")
        return re.compile(f"[0-9]|{apart}")
    if len(before) == 1 and before[0]["type"] == "Split" and not last["use_regex"]:
        given = before[0]["pattern"].get("Regex")
        if given in _KNOWN and before[0]["behavior"] == "Isolated" and not before[0]["invert"]:
            return re.compile(_for_ascii(given))
    return None


def _for_ascii(pattern: str) -> str:
    """Spell out the classes of an expression for ASCII text."""
    outside = re.sub(r"(\[[^\]]*\])|\\p\{(\w+)\}|\\(s)|\\(S)", _class_outside, pattern)
    return re.sub(r"\[[^\]]*\]", _class_inside, outside)


def _class_outside(match: re.Match[str]) -> str:
    if match[1]:
        return match[1]
    if match[2]:
        return f"[{_ASCII_CLASSES[match[2]]}]"
    return f"[{_SPACES}]" if match[3] else f"[^{_SPACES}]"


def _class_inside(match: re.Match[str]) -> str:
    spelled = re.sub(r"\\p\{(\w+)\}", lambda name: _ASCII_CLASSES[name[1]], match[0])
    return spelled.replace(r"\s", _SPACES)


def _spans(text: str) -> Iterator[tuple[str, bool]]:
    """Cut a text in spans that are all ASCII, and spans with everything else; the flag tells which."""
    begin = 0
    while found := _FOREIGN.search(text, begin):
        left = found.start()
        while left > begin:
            left = text.rfind(" ", begin, left)
            if left <= begin:
                left = begin
            elif _always_cut(text, left):
                break
        right = found.end()
        while (right := text.find(" ", right)) >= 0 and not _always_cut(text, right):
            right += 1
        if right < 0:
            right = len(text)
        if left > begin:
            yield text[begin:left], False
        yield text[left:right], True
        begin = right
    if begin < len(text):
        yield text[begin:], False


def _always_cut(text: str, space: int) -> bool:
    """Whether every known expression cuts in front of this space."""
    return space > 0 and not text[space - 1].isspace() and text[space + 1 : space + 2].isalpha()
