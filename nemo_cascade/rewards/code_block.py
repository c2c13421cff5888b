"""Take the program out of an answer: its last fenced code block."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)")
_LANGUAGES = {"python": {"python", "py", "python3", "py3"}, "cpp": {"cpp", "c++", "cc", "cxx"}}


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A closed fenced block: its tag in lower case (may be empty) and its text."""

    tag: str
    text: str


def code_blocks(answer: str) -> list[CodeBlock]:
    """Return the closed fenced blocks of an answer, in order. A block that never closes is cut off, so it's none."""
    blocks = []
    fence, tag, start, position = "", "", 0, 0
    for line in answer.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and not fence:
            fence, tag, start = match[1], match[2].lower(), position + len(line)
        elif match and match[1].startswith(fence) and not line[match.end() :].strip() and not match[2]:
            blocks.append(CodeBlock(tag, answer[start:position]))
            fence = ""
        position += len(line)
    return blocks


def last_program(answer: str, language: str) -> str | None:
    """Return the last block that is tagged with the language or not tagged at all, None if there is none."""
    tags = {"", *_LANGUAGES.get(language, {language})}
    return next((block.text for block in reversed(code_blocks(answer)) if block.tag in tags), None)
