"""Render a row by its tokenizer's template, unless something in it would be read as the template's structure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_cascade.data.chat.conversation import foreign_mark, result_problems, said_in_call, texts_of
from nemo_cascade.data.chat.mode_flags import flag_of, with_one_flag
from nemo_cascade.data.chat.templates import NAMED, Cascade1, Cascade2, Mode, Segment
from nemo_cascade.data.chat.tokenizer import ChatTokenizer

_OPENS, _ENDS = "<[\u25c1 \n\t\r", "> \n\t\r"
_RESULT = re.compile(r"\s*<tool_response>.*</tool_response>\s*", re.DOTALL)


def render_samples(tokenizer: ChatTokenizer, row: Mapping[str, Any]) -> tuple[list[list[Segment]], list[str]]:
    """Render a training row into samples; see `Template.samples`. Returns them, or everything that's wrong."""
    checked, problems = checked_row(tokenizer, row)
    return ([], problems) if problems else tokenizer.template.samples(checked)


def render_prompt(tokenizer: ChatTokenizer, row: Mapping[str, Any], mode: Mode) -> tuple[list[Segment], list[str]]:
    """Render a prompt; see `Template.prompt`. Returns its segments, or everything that's wrong.

    What a row itself says of the mode must be the mode that it is asked in: its record tells the verifier that one.
    """
    checked, problems = checked_row(tokenizer, row)
    problems += [f"asks for {said} where its mode asks for {mode}" for said in _modes_said(checked) if said != mode]
    return ([], problems) if problems else tokenizer.template.prompt(checked, mode)


def checked_row(tokenizer: ChatTokenizer, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return a row whose flags are written as the template writes them, and what may not stand in it."""
    messages = row.get("messages")
    problems: list[str] = []
    for text in texts_of(row.get("tools") or ()):
        if found := tokenizer.control_in(text, tags=True):
            problems.append(f"a tool holds the control token {found}")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return row, problems
    flagged = isinstance(tokenizer.template, Cascade1)
    # Where a user's turn carries a flag, or hides the thoughts before it, a tool's result may not pass for one.
    told_apart = isinstance(tokenizer.template, Cascade1 | Cascade2)
    results, mode = False, row.get("mode")
    read = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            return row, problems  # told by the template
        role, content = message.get("role"), message.get("content")
        mode = message.get("mode") or mode
        if found := _control_in(tokenizer, message):
            problems.append(f"turn {i} ({role}) holds the control token {found}")
        elif (
            role == "assistant" and isinstance(content, str) and (mark := _mark_in(content, thinks=mode != "no_think"))
        ):
            problems.append(f"turn {i} ({role}) {mark}")
        results |= role == "tool"
        if told_apart and role == "user" and isinstance(content, str) and _RESULT.fullmatch(content):
            problems.append(f"turn {i} (user) is a tool's result: give it the role `tool`, without <tool_response>")
        if flagged and role in ("user", "system") and isinstance(content, str) and "think" in content:
            message, trouble = with_one_flag(message)
            problems += [f"turn {i} ({role}) {trouble}"] if trouble else []
        read.append(message)
    if results:
        problems += result_problems(read, in_order=tokenizer.template in NAMED.values())
    return {**row, "messages": read}, problems


def _mark_in(reply: str, *, thinks: bool) -> str | None:
    """Look for marks of another model where a reply doesn't begin and end as nearly all do."""
    if not reply or (reply[0] not in _OPENS and reply[-1] not in _ENDS):
        return None
    return foreign_mark(reply, thinks=thinks)


def _control_in(tokenizer: ChatTokenizer, message: Mapping[str, Any]) -> str | None:
    tags = message.get("role") != "assistant"
    if len(message) == 2 and type(content := message.get("content")) is str:  # most are a role and a text
        return tokenizer.control_in(content, tags=tags)
    texts = [text for value in message.values() for text in ((value,) if type(value) is str else texts_of(value))]
    # What is escaped in the JSON of a call isn't where the call is written.
    texts += [text for call in message.get("tool_calls") or () for text in texts_of(said_in_call(call))]
    return next(filter(None, (tokenizer.control_in(text, tags=tags) for text in texts)), None)


def _modes_said(row: Mapping[str, Any]) -> set[str]:
    """Return the modes that a row names for the reply to its last user's turn."""
    said = {row.get("mode")}
    messages = row.get("messages")
    asked = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"] if messages else []
    for message in asked[-1:]:
        said |= {message.get("mode"), flag_of(str(message.get("content")))}
    return {mode for mode in said if mode is not None}
