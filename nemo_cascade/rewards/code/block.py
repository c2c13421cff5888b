"""Take the program out of an answer: one of its fenced code blocks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
# Possessive: a blank between two signs may belong to either, and trying both each time would double the time each time.
_QUOTE = r"(?:[ \t]{0,3}>[ \t]?)*+"
_FENCE = re.compile(rf"({_QUOTE})([ \t]*)(`{{3,}}|~{{3,}})[ \t]*(.*)")
_TAG = re.compile(r"\{?[ \t]*\.?([\w+#-]*)")
_VERSION = re.compile(r"[\d.]+$")
_LANGUAGES = {"python": {"python", "py", "pypy", "ipython", "sage"}, "cpp": {"cpp", "c++", "cc", "cxx"}}
_DEFINED = re.compile(r"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)", re.MULTILINE)
_MOST_CLOSING_INDENT = 3


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A closed fenced block: its tag in lower case (may be empty) and its text."""

    tag: str
    text: str


def code_blocks(answer: str) -> list[CodeBlock]:
    """Return the closed fenced blocks of an answer, in order. A block that never closes is cut off, so it's none.

    As in CommonMark (spec.commonmark.org/0.31.2/#fenced-code-blocks): a block in a list or a quotation stands as deep
    as its fence, and what stands in front of its lines for that is no part of them. Any depth is taken for a list's.
    """
    blocks = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in _LINE.findall(answer):
        match = _FENCE.match(line.rstrip("\r\n")) if "```" in line or "~~~" in line else None
        if opening is None:
            if match and not (match[3][0] == "`" and "`" in match[4]):  # else it is code within a line
                opening, lines = match, []
        elif match and _closes(match, opening):
            blocks.append(CodeBlock(_tag(opening[4]), "".join(_dedented(lines, opening))))
            opening = None
        else:
            lines.append(line)
    return blocks


def last_program(answer: str, language: str, wanted: Sequence[str] = ()) -> str | None:
    """Return the program of an answer, None if there is none.

    That is the last block that is tagged with the language, or the last without a tag where none is tagged so. Where
    the tests call the program, a snippet that shows its use may follow it: then it's the last block that defines one
    of the wanted names, if any does.

    Args:
        answer: what stands after the reasoning.
        language: python or cpp.
        wanted: names that the tests use of the program.
    """
    blocks = code_blocks(answer)
    tags = _LANGUAGES.get(language, {language})
    named = [_VERSION.sub("", block.tag) for block in blocks]
    texts = [block.text for block, tag in zip(blocks, named, strict=True) if tag in tags]
    texts = texts or [block.text for block in blocks if not block.tag]
    texts = [text for text in texts if not set(wanted).isdisjoint(_DEFINED.findall(text))] or texts
    return texts[-1] if texts else None


def _tag(information: str) -> str:
    match = _TAG.match(information)
    tag = match[1].lower() if match else ""
    rest = information[match.end() :] if match else ""
    return tag + (re.match(r"(?:\.\d+)*", rest) or [""])[0]


def _closes(match: re.Match[str], opening: re.Match[str]) -> bool:
    deep_enough = len(match[2].expandtabs(4)) <= len(opening[2].expandtabs(4)) + _MOST_CLOSING_INDENT
    return match[3].startswith(opening[3]) and not match[4].strip() and deep_enough


def _dedented(lines: Sequence[str], opening: re.Match[str]) -> list[str]:
    """Take off what stands in front of a block's lines: the signs of quotation, and as many blanks as the fence has."""
    if not opening[1] and not opening[2]:
        return list(lines)
    prefix = re.compile(rf"{_QUOTE if opening[1] else ''}[ \t]{{0,{len(opening[2])}}}")
    return [line[match.end() :] if (match := prefix.match(line)) else line for line in lines]
