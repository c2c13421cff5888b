r"""The formats of Nemotron-Cascade 2 (arXiv 2603.19220, section 3) and Nemotron 3 Nano (arXiv 2512.20848).

No flags: what the prompt opens decides. Only what the model itself would write is trained:

    thinks:     <|im_start|>assistant\n<think>\n       | ...\n</think>\n...<|im_end|>
    does not:   <|im_start|>assistant\n<think></think> | ...<|im_end|>

Thoughts before the last user's turn are shortened to `<think></think>`; inside a tool episode they stay. A shortened
reply is nothing that the model would write, so a conversation that has one becomes one sample per user's turn, each
trained on what follows that turn (`turns.unroll`). Tools are XML, results come back in a user turn.

The two differ in the default system turn only. Sources: the papers' descriptions, and for spacing the published
templates as ports of them describe them. Where a system text is not given but tools are, we leave out Cascade 2's line
that forbids tools.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemo_cascade.data.chat.templates.chatml import DEFAULT_SYSTEM, TURN_END, TURN_START, ChatMl, to_json
from nemo_cascade.data.chat.templates.turns import Call, Mode, Tools, Turn, function_of, unroll

NO_TOOLS = "You are not allowed to use any tools."
_FORMAT = """

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell \
the user about function calls
</IMPORTANT>"""


class Cascade2(ChatMl):
    """Nemotron-Cascade 2."""

    name = "cascade2"
    default_system = DEFAULT_SYSTEM
    source = "cascade2.jinja"
    constants: Mapping[str, Any] = {"TOOL_FORMAT": _FORMAT}

    def _parts(self, turns: Sequence[Turn]) -> list[Sequence[Turn]]:
        return unroll(turns)

    def _mode(
        self, turn: Turn, given: Mode | None, done: Mode | None, *, open_ended: bool
    ) -> tuple[Mode | None, str | None]:
        settled = turn.mode or given or done
        if open_ended and settled is None:
            return None, "leaves open whether the reply thinks (no mode given)"
        if done is not None and settled != done and not open_ended:
            return None, f"asks for {settled} and is answered with {done}"
        return settled, None

    def _system(self, text: str | None, tools: Tools) -> str:
        if text is None and not tools and self.default_system:
            text = f"{self.default_system}\n\n{NO_TOOLS}"
        whole = super()._system(text, tools)
        return whole or f"{TURN_START}system\n{TURN_END}\n"

    def _declare(self, tools: Tools) -> str:
        declared = "".join(_declaration(function_of(tool)) for tool in tools)
        return f"# Tools\n\nYou have access to the following functions:\n\n<tools>{declared}\n</tools>{_FORMAT}"

    def _opening(self, mode: Mode | None) -> str:
        return "<think>\n" if mode == "think" else "<think></think>"

    def _reply(self, turn: Turn, is_current: bool) -> tuple[str, str]:
        calls = "".join(self._call(call) for call in turn.calls)
        if turn.reasoning is None:
            opening, text = "<think></think>", turn.content
        elif is_current:
            opening, text = "<think>\n", f"{turn.reasoning}\n</think>\n{turn.content}"
        else:
            opening, text = "<think></think>", turn.content if turn.calls else f"\n{turn.content}"
            text = text.strip() if turn.calls else text
        return opening, text.rstrip() + ("\n" + calls if calls else "")

    def _is_whole(self, turn: Turn, is_current: bool) -> bool:
        return is_current or turn.reasoning is None

    def _call(self, call: Call) -> str:
        given = "".join(f"<parameter={name}>\n{_text(value)}\n</parameter>\n" for name, value in call.arguments.items())
        return f"<tool_call>\n<function={call.name}>\n{given}</function>\n</tool_call>\n"

    def _result(self, turns: Sequence[Turn], i: int) -> str:
        opens = f"{TURN_START}user\n" if turns[i - 1].role != "tool" else ""
        closes = f"{TURN_END}\n" if i + 1 == len(turns) or turns[i + 1].role != "tool" else ""
        return f"{opens}<tool_response>\n{turns[i].content}\n</tool_response>\n{closes}"


class Nano3(Cascade2):
    """Nemotron 3 Nano: as Cascade 2, with an empty system turn where none is given."""

    name = "nano3"
    default_system = ""


def _declaration(function: Mapping[str, Any]) -> str:
    """Render one tool's specification as XML."""
    text = f"\n<function>\n<name>{function['name']}</name>{_described(function)}\n<parameters>"
    parameters = function.get("parameters")
    if isinstance(parameters, Mapping):
        properties = parameters.get("properties")
        for name, given in (properties if isinstance(properties, Mapping) else {}).items():
            field = given if isinstance(given, Mapping) else {}
            text += f"\n<parameter>\n<name>{name}</name>"
            text += f"\n<type>{_plain(field['type'])}</type>" if "type" in field else ""
            text += _described(field)
            text += f"\n<enum>{to_json(field['enum'])}</enum>" if "enum" in field else ""
            text += _rest(field, ("name", "type", "description", "enum")) + "\n</parameter>"
        text += _rest(parameters, ("type", "properties", "required"))
        text += f"\n<required>{to_json(parameters['required'])}</required>" if "required" in parameters else ""
    return f"{text}\n</parameters>{_rest(function, ('type', 'name', 'description', 'parameters'))}\n</function>"


def _described(spec: Mapping[str, Any]) -> str:
    return f"\n<description>{_plain(spec['description']).strip()}</description>" if "description" in spec else ""


def _rest(spec: Mapping[str, Any], told: Collection[str]) -> str:
    return "".join(f"\n<{key}>{_text(value)}</{key}>" for key, value in spec.items() if key not in told)


def _text(value: Any) -> str:
    return to_json(value) if isinstance(value, Mapping | list | tuple) else _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
