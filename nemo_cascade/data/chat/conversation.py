"""Read the conversation of a row: every key of every message has a meaning here, or the row is refused.

Sets spell the same things in many ways, and a key that nobody reads may be the one that says "don't train this". So
what is known is turned into one form, which the templates (`data.templates`) and all others read, and what isn't known
is told. The form: `role`, `content`; of an assistant `reasoning_content`, `tool_calls` (name, arguments, perhaps id)
and `trained: false`; of a user `mode`; of a tool `name` and `tool_call_id`. Beside the messages `tools`, read from its
JSON, without nulls. A call stays in the form that it is given in.

    thoughts            one of THOUGHTS, or a think block that opens the content
    not to be trained   one of SWITCHES, false or 0; a fraction is refused, for replies have no weights here
    to be continued     one of UNFINISHED, true: refused, for every reply is trained with its end
    calls               `tool_calls`, in OpenAI's form or bare; `function_call`
    notes               NOTES: nothing that a model reads or learns

A think tag anywhere else in a reply is refused: whoever reads the reply takes a tag for the border of its thoughts.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN, function_of, split_reasoning
from nemo_cascade.data.rows.json_text import read_json

THOUGHTS = (
    "reasoning_content", "reasoning", "reasoning_text", "thinking", "thinking_content", "thought", "thoughts",
    "chain_of_thought", "cot",
)  # fmt: skip
SWITCHES = ("trained", "train", "training", "trainable", "weight", "loss", "loss_mask")
UNFINISHED = ("prefix", "partial", "prefill", "continue_final_message")
NOTES = {
    "id", "name", "index", "timestamp", "created_at", "model", "lang", "language", "source", "metadata",
    "turn_identifier", "country", "header", "hashed_ip", "redacted", "state", "toxic",
}  # fmt: skip
_OF_ROLE = {"user": {"mode"}, "tool": {"name", "tool_call_id"}}
# Columns beside `messages` that would say something of them, under a name that isn't read.
_BESIDE = {
    **dict.fromkeys(("system", "system_prompt", "system_message"), "write it as the first message"),
    **dict.fromkeys(("functions", "available_tools", "tool_definitions", "tool_schemas"), "name it `tools`"),
    **dict.fromkeys(THOUGHTS, "write it into the reply's message"),
    "chat_template_kwargs": "write `mode` and `tools`",
    "enable_thinking": "name it `mode`: think or no_think",
    **dict.fromkeys(("loss_mask", "loss_masks", "weights", "assistant_masks", "completion_mask"),
                    "write `trained: false` into the message"),
    **dict.fromkeys(("loss_weight", "sample_weight"), "a source has a `weight`, its rows have none"),
}  # fmt: skip
_WHETHER = {"on", "off", "yes", "no", "true", "false"}
# What other models open their thoughts with.
_FOREIGN_THOUGHT = re.compile(
    r"\s*(<(?:thinking|thought|thoughts|reason|seed:think)>|<\|?(?:begin_of_thought|begin_of_thinking|thinking|think)\|>"
    r"|\[THINK\]|\u25c1think\u25b7|<think\s[^>]*>|(?!<think>)<(?i:think)>|<\|channel\|?>\s*(?:analysis|thought))"
)
# What other models end a text or a turn with; `</s>` also closes what is struck out in HTML.
_FOREIGN_END = re.compile(
    r"(<\|(?:\w|\u2581)+\|>|<\uff5c(?:\w|\u2581)+\uff5c>|<(?:end_of_turn|eos|end_of_text|end_of_utterance)>|</s>"
    r"|<SPECIAL_\d+>|<extra_id_\d+>)\s*\Z"
)
_PLAIN = {"role", "content"}
# Keys of a JSON schema under which null is a value.
_MAY_BE_NULL = ("default", "const", "enum", "examples")


def read_row(row: Mapping[str, Any], taken: Collection[str] | None = ()) -> tuple[dict[str, Any], str | None]:
    """Bring `messages`, `tools`, `chosen` and `rejected` of a row into the one form; what they aren't stays as it is.

    Args:
        row: decoded, its columns ours.
        taken: columns that a mapping takes; of the others, those that look as if they said something of the messages
            are refused. None: it is known what they say.

    Returns:
        The row and None, or an empty row and what is wrong with it.
    """
    whole = dict(row)
    try:
        messages = row.get("messages")
        if isinstance(messages, list):
            whole["messages"] = _read_messages(messages)
            if taken is not None:
                _refuse_beside({k: v for k, v in row.items() if k not in taken}, messages)
        if "tools" in row and not (tools := _tools(row["tools"])):
            del whole["tools"]
        elif "tools" in row:
            whole["tools"] = tools
        for side in ("chosen", "rejected"):
            if isinstance(row.get(side), list):
                whole[side] = _read_messages(row[side], scored=True)
    except _Refused as refused:
        return {}, str(refused)
    return whole, None


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts and numbers in a value, those of mappings by their keys' order and with the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield str(name)
            yield from texts_of(value[name])
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_of(inner)
    elif value is not None:
        yield str(value)


def foreign_mark(reply: str, *, thinks: bool = True) -> str | None:
    """Say what of another model's format a reply opens or ends with; None where nothing.

    Args:
        reply: its text.
        thinks: whether a thought may stand at its beginning.
    """
    if thinks and (found := _FOREIGN_THOUGHT.match(reply)):
        return f"opens with {found[1]!r}: write its thought as <think>, or give the row mode=no_think"
    found = _FOREIGN_END.search(reply, max(0, len(reply) - 80))
    if found and not (found[1] == "</s>" and "<s>" in reply):
        return f"ends with {found[1]!r}, the end of another model's text: cut it off"
    return None


def result_problems(messages: Sequence[Any], *, in_order: bool) -> list[str]:
    """List the tools' turns that answer no call of the turn before them.

    Args:
        messages: read.
        in_order: the template writes no ids, so only their order tells which result is whose.
    """
    problems: list[str] = []
    due: list[Any] = []
    for i, message in enumerate(messages):
        if message.get("role") == "assistant":
            due = [call.get("id") for call in message.get("tool_calls") or ()]
        elif message.get("role") == "tool":
            answered = message.get("tool_call_id")
            if not due or (answered is not None and None not in due and answered not in due):
                problems.append(f"turn {i} (tool) answers no call of the turn before, or one that has its result")
                continue
            known = answered in due
            if known and in_order and answered != due[0]:
                problems.append(
                    f"turn {i} (tool) answers the call {answered!r} where {due[0]!r} is due: the chat template writes "
                    "no ids, so give the results in the order of the calls"
                )
            due.pop(due.index(answered) if known else 0)
    return problems


class _Refused(Exception):
    """Something of a row isn't read as it is meant."""


def _refuse_beside(row: Mapping[str, Any], messages: Sequence[Any]) -> None:
    last = messages[-1] if messages else None
    replies = isinstance(last, Mapping) and last.get("role") == "assistant"
    for name in sorted(_BESIDE.keys() & row.keys()):
        # A prompt may have a thought beside it; sets also say there whether a row thinks, which its replies show.
        harmless = name in THOUGHTS and (not replies or str(row[name]).casefold() in _WHETHER)
        if not (_is_empty(row[name]) or harmless):
            raise _Refused(f"column {name!r} isn't read beside `messages`: {_BESIDE[name]}, or map the columns")
    if replies or not _is_empty(row.get("chosen")):
        for name in sorted(row.keys() & SWITCHES):
            # A loss may also be a number that somebody measured.
            said = row.get(name) if name != "loss" or row.get(name) in (0, 1) else None
            if said is not None and not _switch(said, f"column {name!r}"):
                raise _Refused(f"column {name!r} says {said!r}: leave the row out")


def _read_messages(messages: Sequence[Any], *, scored: bool = False) -> list[Any]:
    """Read messages; with `scored` the last is a reply that is compared, thoughts and all, and not trained."""
    read: list[Any] = []
    for i, message in enumerate(messages):
        if _is_plain(message) or not isinstance(message, Mapping):
            read.append(message)  # what is no message is told by who reads the turns
            continue
        try:
            read.append(_message(message, scored=scored and i + 1 == len(messages)))
        except _Refused as refused:
            raise _Refused(f"turn {i} ({message.get('role')}) {refused}") from None
    # An empty system text says nothing: as if it weren't there.
    first = read[0] if len(read) > 1 and isinstance(read[0], Mapping) else {}
    says_nothing = first.get("role") == "system" and not str(first.get("content") or "").strip()
    return read[1:] if says_nothing else read


def _is_plain(message: Any) -> bool:
    """Tell whether there is nothing to read in a message but a role and a text: most are such."""
    if type(message) is not dict or message.keys() != _PLAIN:
        return False
    text = message["content"]
    return type(text) is str and bool(text) and (message["role"] != "assistant" or "think>" not in text)


def _message(message: Mapping[str, Any], *, scored: bool) -> dict[str, Any]:
    given = {k: v for k, v in message.items() if not _is_empty(v)}
    role = given.get("role")
    read: dict[str, Any] = {"role": message.get("role")}
    if message.get("content") is not None:
        read["content"] = _content(message["content"])
    known = {"role", "content", *SWITCHES, *NOTES, *_OF_ROLE.get(str(role), ())}
    read |= {name: given[name] for name in _OF_ROLE.get(str(role), ()) if name in given}
    if role == "assistant":
        known |= {*THOUGHTS, *UNFINISHED, "tool_calls", "function_call"}
        if unfinished := [name for name in UNFINISHED if given.get(name)]:
            raise _Refused(f"is to be continued ({unfinished[0]!r}): it has no end to train")
        if calls := _calls(given):
            read["tool_calls"] = calls
        if not scored:
            read |= _thoughts(given, read.get("content"))
    if _switched(given) is not None:
        if role != "assistant" and _switched(given):
            raise _Refused("is marked to be trained, and only replies are")
        if role == "assistant" and not _switched(given):
            if scored:
                raise _Refused("is marked not to be trained: leave the pair out")
            read["trained"] = False
    if unknown := sorted(str(name) for name in given.keys() - known):
        raise _Refused(f"has keys that aren't read: {', '.join(map(repr, unknown))}; remove or rename them")
    return read


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _content(content: Any) -> Any:
    """Join parts of text; what is neither a text nor parts is told by who reads the turns."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        rest = {k for k, v in part.items() if not _is_empty(v)} - {"type", "text"} if kind else set()
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str) or rest:
            raise _Refused("holds more than text")
    return "".join(part["text"] for part in content)


def _switched(given: Mapping[str, Any]) -> bool | None:
    """Say whether a message is to be trained; None where it doesn't say."""
    said = {name: _switch(given[name], repr(name)) for name in SWITCHES if name in given}
    if len(set(said.values())) > 1:
        raise _Refused(f"contradicts itself: {', '.join(f'{name}={given[name]!r}' for name in said)}")
    return next(iter(said.values()), None)


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise _Refused(f"has {name}={value!r}, which is neither true (1) nor false (0)")
    return bool(value)


def _thoughts(given: Mapping[str, Any], content: Any) -> dict[str, Any]:
    """Return `reasoning_content`, and `content` without it."""
    found = {name: given[name] for name in THOUGHTS if name in given}
    if not_text := [name for name, value in found.items() if not isinstance(value, str)]:
        raise _Refused(f"has a thought in {not_text[0]!r} that is no text")
    texts = {value.strip("\n") for value in found.values() if value.strip()}
    if len(texts) > 1:
        raise _Refused(f"has different thoughts in {' and '.join(map(repr, found))}")
    thought, answer = next(iter(texts), None), content if isinstance(content, str) else ""
    if answer.lstrip().startswith(THINK_OPEN):
        if THINK_CLOSE not in answer:
            raise _Refused("opens a think block that never closes")
        inside, answer = split_reasoning(answer)
        inside = inside if inside and inside.strip() else None
        if thought and inside and thought != inside:
            raise _Refused("has one thought beside its content and another in it")
        thought = thought or inside
    for text, where in ((answer, "answer"), (thought or "", "thoughts")):
        if tag := next((tag for tag in (THINK_OPEN, THINK_CLOSE) if tag in text), None):
            raise _Refused(f"holds {tag} in its {where}: thoughts stand in one block that opens the content")
    read = {"reasoning_content": thought} if thought else {}
    return read | ({"content": answer} if isinstance(content, str) else {})


def _calls(given: Mapping[str, Any]) -> list[Any]:
    calls = given.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise _Refused("has `tool_calls` that are no list of calls")
    if "function_call" in given:  # OpenAI's older form
        if calls or not isinstance(given["function_call"], Mapping):
            raise _Refused("has a `function_call` that is no call, or `tool_calls` beside it")
        calls = [given["function_call"]]
    return [_call(call) for call in calls]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = function_of(call)
    around = {k for k, v in call.items() if not _is_empty(v)} - {"id", "type", "index", "function"}
    unknown = {k for k, v in function.items() if not _is_empty(v)} - {"name", "arguments", "id", "type", "index"}
    unknown |= around if function is not call else set()
    if unknown or call.get("type", "function") not in ("function", None):
        raise _Refused(f"calls a tool in a form that isn't read: {', '.join(sorted(unknown)) or call['type']}")
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise _Refused("calls a tool without a name")
    try:
        _finite(_arguments(function))
    except ValueError as error:
        raise _Refused(f"calls a tool with arguments that are {error}") from None
    # As it is written: some templates write the whole call, or its arguments as the text that they are.
    kept = _without_nothing(call)
    return kept if function is call else {**kept, "function": _without_nothing(function)}


def _without_nothing(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call without nulls, and without arguments that are the text of none."""
    nothing = isinstance(call.get("arguments"), str) and call["arguments"].strip() in ("", "null")
    return {k: v for k, v in call.items() if v is not None and not (nothing and k == "arguments")}


def _arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a call's arguments: a mapping, its JSON, or nothing."""
    given = function.get("arguments")
    if isinstance(given, str):
        try:
            given = read_json(given) if given.strip() else None
        except ValueError as error:
            raise ValueError(f"broken JSON: {error}") from None
    if given is not None and not isinstance(given, Mapping):
        raise ValueError("no mapping")
    return given or {}


def said_in_call(call: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the arguments of a call that was read, however it is written."""
    function = function_of(call)
    return function["name"], _arguments(function)


def _tools(tools: Any) -> Any:
    """Read tool specifications out of their JSON, and leave out what is null."""
    try:
        tools = read_json(tools) if isinstance(tools, str) and tools.strip() else tools
        specs = [read_json(t) if isinstance(t, str) else t for t in tools] if isinstance(tools, list) else tools
        if isinstance(specs, list):
            specs = [_with_parameters(spec) if isinstance(spec, Mapping) else spec for spec in specs]
    except ValueError as error:
        raise _Refused(f"`tools` is broken JSON: {error}") from None
    return _without_nulls(_finite(specs))


def _with_parameters(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the parameters of a specification, which tables hold as JSON text and Anthropic calls `input_schema`."""
    function = function_of(spec)
    if isinstance(schema := function.get("input_schema"), Mapping | str) and "parameters" not in function:
        function = {("parameters" if k == "input_schema" else k): v for k, v in function.items()}
    elif not isinstance(schema := function.get("parameters"), str):
        return spec
    read = {**function, "parameters": read_json(schema or "{}") if isinstance(schema, str) else schema}
    return {**spec, "function": read} if isinstance(spec.get("function"), Mapping) else read


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None or k in _MAY_BE_NULL}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    """Return a value as it is, unless it holds a number that JSON hasn't."""
    level = [value]
    while level:
        inner = level.pop()
        if isinstance(inner, float) and not math.isfinite(inner):
            raise _Refused(f"holds {inner}, which is no JSON")
        level += inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, list) else ()
    return value
