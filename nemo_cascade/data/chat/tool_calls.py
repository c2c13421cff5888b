r"""Read the calls of tools out of a reply, in the three forms in which the named templates write them.

    <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>                               JSON
    <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>      XML
    <TOOLCALL>[{"name": ..., "arguments": {...}}, ...]</TOOLCALL>                               a JSON list

An XML value is text. The tool's specification says what it is meant as: a text stays as it is, anything else is read as
JSON where it can be. A call that can't be read is an invalid call; it says why.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_cascade.data.chat.templates.turns import function_of

_CALL = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)|<TOOLCALL>(.*?)(</TOOLCALL>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_MOST_CALLS = 64
# Types of a JSON schema whose values are read as JSON; a text is left as it is.
_READ = ("integer", "number", "boolean", "object", "array", "null")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call, or what is written like one.

    Attributes:
        name: of the tool; empty where it can't be read.
        arguments: by name.
        problem: what is wrong with it; None if nothing.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_calls(reply: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
    """Return what a reply says without its calls, and the calls in order.

    Args:
        reply: what follows the thought, as text.
        tools: specifications of the tools that there are.
    """
    functions = {str(function_of(tool).get("name")): function_of(tool) for tool in tools}
    calls = [call for match in _CALL.finditer(reply) for call in _read(match, functions)]
    if len(calls) > _MOST_CALLS:
        calls = [*calls[:_MOST_CALLS], ToolCall("", {}, f"{len(calls)} calls in one reply, {_MOST_CALLS} at most")]
    return _CALL.sub("", reply).strip(), calls


def _read(match: re.Match[str], functions: Mapping[str, Mapping[str, Any]]) -> list[ToolCall]:
    body, closed, listed, listed_closed = match.groups()
    if not (closed or listed_closed):
        return [ToolCall("", {}, "the call never ends")]
    if listed is not None:
        return [_known(call, functions) for call in _listed(listed)]
    return [_known(_xml(body, functions) if "<function" in body else _json(body), functions)]


def _known(call: ToolCall, functions: Mapping[str, Mapping[str, Any]]) -> ToolCall:
    if call.problem is None and call.name not in functions:
        return ToolCall(call.name, call.arguments, f"there is no tool {call.name!r}")
    return call if call.problem else _checked(call, functions[call.name])


def _listed(body: str) -> list[ToolCall]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        return [ToolCall("", {}, f"the calls are no JSON: {str(error)[:100]}")]
    if not isinstance(values, list) or not values:
        return [ToolCall("", {}, "the calls are no list, or an empty one")]
    return [_call(value) for value in values]


def _json(body: str) -> ToolCall:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return ToolCall("", {}, f"the call is no JSON: {str(error)[:100]}")
    return _call(value)


def _call(value: Any) -> ToolCall:
    name, arguments = (value.get("name"), value.get("arguments", {})) if isinstance(value, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return ToolCall("", {}, "the call has no name, or arguments that are no object")
    return ToolCall(name, arguments)


def _xml(body: str, functions: Mapping[str, Mapping[str, Any]]) -> ToolCall:
    found = _FUNCTION.fullmatch(body)
    if found is None:
        return ToolCall("", {}, "the call isn't one <function=...> block")
    name, inside, end = found[1].strip(), found[2], 0
    arguments: dict[str, Any] = {}
    properties = _properties(functions.get(name, {}))
    for match in _PARAMETER.finditer(inside):
        if inside[end : match.start()].strip():
            break
        key, end = match[1].strip(), match.end()
        if key in arguments:
            return ToolCall(name, arguments, f"the parameter {key!r} is given twice")
        arguments[key] = _value(match[2], properties.get(key))
    if inside[end:].strip():
        return ToolCall(name, arguments, "the call holds something else than parameters")
    return ToolCall(name, arguments)


def _value(text: str, spec: Any) -> Any:
    kinds = spec.get("type") if isinstance(spec, Mapping) else "string"
    if not set([kinds] if isinstance(kinds, str) else kinds or ()) & set(_READ):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Python's own names of the three are what models write, too.
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


def _properties(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _checked(call: ToolCall, function: Mapping[str, Any]) -> ToolCall:
    """Hold a call to the names that its tool takes; what the values are, the tool says itself."""
    parameters = function.get("parameters")
    required = parameters.get("required") if isinstance(parameters, Mapping) else None
    known = _properties(function)
    if lacking := [name for name in required or () if name not in call.arguments]:
        return ToolCall(call.name, call.arguments, f"{call.name} needs {', '.join(lacking)}")
    if unknown := [name for name in call.arguments if known and name not in known]:
        return ToolCall(call.name, call.arguments, f"{call.name} takes no {', '.join(unknown)}")
    return call
