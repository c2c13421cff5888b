"""The mode flags of Cascade 1 and of Qwen3, `/think` and `/no_think`, as people write them: behind any white space."""

import re
from collections.abc import Mapping
from typing import Any

from nemo_cascade.data.chat.templates import Mode
from nemo_cascade.data.chat.templates.chatml import split_flag

# Whatever may be read as a flag by somebody: a word of its own, in brackets or before a full stop, too.
_FLAG = re.compile(r"(?<![\w/])/(?:no_)?think(?![\w/-])")


def without_flag(text: str) -> str:
    """Return a question without the flag at its end."""
    return split_flag(text)[0]


def flag_of(text: str) -> Mode | None:
    """Return the mode that the flag at a question's end asks for; None without one."""
    return split_flag(text)[1]


def with_one_flag(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return a message whose flag, if it has one, stands behind a single space at its end, and what's wrong."""
    flags = _FLAG.findall(message["content"])
    if not flags:
        return message, ""
    question, mode = without_flag(message["content"]), flag_of(message["content"])
    if len(flags) > 1 or message["role"] != "user" or mode is None:
        return message, f"holds the mode flag {flags[0]} elsewhere than once at a user's turn's end"
    return ({**message, "content": f"{question} {flags[0]}"}, "") if question.strip() else (message, "is only a flag")
