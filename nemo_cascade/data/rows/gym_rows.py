"""NeMo Gym's rows: a request to the Responses API, and beside it what the row's environment needs.

`responses_create_params` holds `input` (a text, or items: messages, calls, their results, thoughts) and `tools`;
`agent_ref` names who plays the row, by which a task picks its own (`agents`); all other columns are the verifier's and
stay as they are. A row whose question is a placeholder has to be filled in from its source first.
"""

from collections.abc import Mapping
from typing import Any

_CREATE = "responses_create_params"
_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def lift_request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with `messages` and `tools` out of its request, and `answer` where it has an `expected_answer`.

    Raises:
        ValueError, TypeError: the request can't be read as a conversation.
    """
    if _CREATE not in raw:
        raise ValueError(f"no column {_CREATE!r}: give columns, or schema=own where rows have our keys")
    request = raw[_CREATE]
    if not isinstance(request, Mapping):
        raise TypeError(f"column {_CREATE!r} is no request but {type(request).__name__}")
    if "_hf_placeholder" in raw:
        raise ValueError("its question is a placeholder: fill in the rows from their source first")
    row: dict[str, Any] = {k: v for k, v in raw.items() if k != _CREATE}
    given = request.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise TypeError(f"column '{_CREATE}.input' is no list of items")
    row["messages"] = _messages(([_instructions(request)] if request.get("instructions") else []) + items)
    if tools := request.get("tools"):
        row["tools"] = [_tool(tool) for tool in tools]
    if "answer" not in row and raw.get("expected_answer") is not None:
        row["answer"] = raw["expected_answer"]
    return row


def agent_of(row: Mapping[str, Any]) -> str | None:
    """Return who plays a row; None where it doesn't say."""
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, Mapping) else reference
    return name if isinstance(name, str) else None


def _instructions(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "system", "content": request["instructions"]}


def _messages(items: list[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    thought = ""
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise TypeError(f"item {i} of the request is {type(item).__name__}")
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought = _text(item.get("content") or item.get("summary"), i)
        elif kind == "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            reply = messages[-1] if messages and messages[-1]["role"] == "assistant" and not thought else None
            if reply is None:
                reply = _reply("", thought)
                messages.append(reply)
                thought = ""
            reply.setdefault("tool_calls", []).append({"id": item.get("call_id"), "type": "function", "function": call})
        elif kind == "function_call_output":
            result = _text(item.get("output"), i)
            messages.append({"role": "tool", "content": result, "tool_call_id": item.get("call_id")})
        elif kind == "message":
            role = _ROLES.get(str(item.get("role")))
            if role is None:
                raise ValueError(f"item {i} of the request has the unknown role {item.get('role')!r}")
            text = _text(item.get("content"), i)
            messages.append(_reply(text, thought) if role == "assistant" else {"role": role, "content": text})
            thought = "" if role == "assistant" else thought
        else:
            raise ValueError(f"item {i} of the request is of the unknown type {kind!r}")
    return messages


def _reply(text: str, thought: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"reasoning_content": thought} if thought else {})}


def _text(content: Any, i: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not parts or not all(isinstance(part, Mapping) and part.get("type") in _TEXTS for part in parts):
        raise ValueError(f"item {i} of the request holds no text (images and files can't be read)")
    return "".join(str(part.get("text") or "") for part in parts)


def _tool(tool: Any) -> dict[str, Any]:
    """Return a tool's specification in the chat form: what the Responses API has beside `function` stands inside it."""
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
        raise ValueError(f"a tool of the request is no function: {tool!r:.100}")
    if isinstance(tool.get("function"), Mapping):
        return dict(tool)
    kept = {k: v for k, v in tool.items() if k in ("name", "description", "parameters") and v is not None}
    return {"type": "function", "function": kept}
