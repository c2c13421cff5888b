"""Lift tools out of text: declarations out of the system turn, calls out of replies, results out of their wrapping.

Nemotron-Cascade's released SFT rows have them written out in Cascade 1's format; lifted, every template can write them.
"""

import re
from typing import Any

from nemo_cascade.data.chat.templates.turns import THINK_CLOSE
from nemo_cascade.data.rows.json_text import read_json

# "... within <tools></tools> XML tags:\n<tools>\n{...}\n</tools>\n\nFor each ... <tool_call>\n{...}\n</tool_call>"
_TOOLS = re.compile(r"\n*# Tools\b.*?<tools>\n(.*?)\n</tools>(?:.*</tool_call>)?", re.DOTALL)
_CALLS = re.compile(r"\s*((?:<tool_call>\s*.*?\s*</tool_call>\s*)+)\Z", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"\A\s*<tool_response>\n?(.*?)\n?</tool_response>\s*\Z", re.DOTALL)


def lift_tools(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose tools, calls and results are fields; one that has none of them is the same.

    Raises:
        ValueError: a declaration or call that's no JSON, or a result that is wrapped in part.
    """
    messages = [dict(m) if isinstance(m, dict) else m for m in row["messages"]]
    tools = row.get("tools")
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            continue
        if message.get("role") == "system" and (found := _TOOLS.search(content)) and not tools:
            declared = [_json(line, i) for line in found[1].splitlines() if line.strip()]
            tools = [tool for part in declared for tool in (part if isinstance(part, list) else [part])]
            message["content"] = content[: found.start()] + content[found.end() :]
        elif message.get("role") == "assistant" and not message.get("tool_calls"):
            thought, closed, answer = content.rpartition(THINK_CLOSE)
            if "<tool_call>" in answer:
                message |= {"content": thought + closed + _CALLS.sub("", answer), "tool_calls": _calls(answer, i)}
        elif message.get("role") == "tool" and "tool_response>" in content:
            wrapped = _RESULT.match(content)
            if wrapped is None or "<tool_response>" in wrapped[1]:
                raise ValueError(f"turn {i} (tool) isn't wrapped in one <tool_response>")
            message["content"] = wrapped[1]
    return {**row, "messages": messages, **({"tools": tools} if tools else {})}


def _calls(answer: str, i: int) -> list[Any]:
    found = _CALLS.search(answer)
    if found is None:
        raise ValueError(f"turn {i} (assistant) goes on behind its <tool_call>, or never closes it")
    return [_json(text, i) for text in _CALL.findall(found[1])]


def _json(text: str, i: int) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise ValueError(f"turn {i} writes a tool or a call that is no JSON: {error}") from error
