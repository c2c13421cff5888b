"""Read the messages of a row into turns: one shape for every template, and everything that's wrong with them.

A message has `role` and `content`; an assistant's may have `reasoning_content`, `tool_calls` (name and arguments, or
OpenAI's `function` around them, and perhaps `id`) and `trained: false`; a user's may have `mode`, a tool's the `name`
of what was called and its `tool_call_id`.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Mode = Literal["think", "no_think"]
Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

MODES: tuple[Mode, ...] = ("think", "no_think")
ROLES = ("system", "user", "assistant", "tool")
NO_REPLY = "no assistant turn"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool.

    Attributes:
        name: of the tool.
        arguments: by name.
        given: the call as the row has it: some templates write its id, or all of it.
    """

    name: str
    arguments: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> Any:
        """What the row calls it; None where it doesn't."""
        return self.given.get("id")

    @property
    def written(self) -> str | None:
        """Its arguments as the row's JSON text, where they are one."""
        arguments = function_of(self.given).get("arguments")
        return arguments if isinstance(arguments, str) and arguments.strip() else None


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, read.

    Attributes:
        role: system, user, assistant or tool.
        content: its text; of an assistant's the answer, without the reasoning.
        reasoning: what an assistant thought, without tags and without newlines around it; None where it didn't.
        calls: the tools that an assistant calls.
        mode: what a user's message says of the replies to it; None: nothing.
        trained: whether an assistant's turn is learned.
        name: of a tool's turn, the tool; None where the row doesn't say.
        call_id: of a tool's turn, the id of the call that it answers; None where the row doesn't say.
    """

    role: str
    content: str
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    mode: Mode | None = None
    trained: bool = True
    name: Any = None
    call_id: Any = None


def read_turns(messages: Any, control: Sequence[str]) -> tuple[list[Turn], list[str]]:
    """Read messages. Returns turns and no problem, or whatever was read and everything that's wrong.

    Args:
        messages: as they lie in the row.
        control: tokens that structure the template's text and may not stand in a message.
    """
    problems = _shape_problems(messages)
    if problems:
        return [], problems
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        turn, trouble = _read(message)
        texts = (turn.content, turn.reasoning or "", *(str(c.arguments) + c.name for c in turn.calls))
        if not trouble and any(token in text for token in control for text in texts):
            trouble = "holds a control token in its text"
        if trouble:
            problems.append(f"turn {i} ({turn.role}) {trouble}")
        turns.append(turn)
    return turns, problems


def read_tools(tools: Any) -> tuple[Tools, list[str]]:
    """Read tool specifications: a list of mappings, or the JSON text of one. None and "" are no tools."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            return [], [f"`tools` is broken JSON: {error}"]
    if not tools:
        return [], []
    if not isinstance(tools, Sequence) or not all(isinstance(t, Mapping) for t in tools):
        return [], ["`tools` is no list of specifications"]
    unnamed = [i for i, t in enumerate(tools) if not isinstance(function_of(t).get("name"), str)]
    return tools, [f"tool {i} has no name" for i in unnamed]


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a tool's specification without OpenAI's `{"type": "function", "function": ...}` around it."""
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def without_empty_system(turns: list[Turn]) -> list[Turn]:
    """Drop a system turn that says nothing: in released sets that is how a row has none."""
    return turns[1:] if turns and turns[0].role == "system" and not turns[0].content.strip() else turns


def content_problems(turns: Sequence[Turn]) -> list[str]:
    """List the turns that say nothing; those a model shouldn't learn from or be asked with."""
    return [
        f"turn {i} ({t.role}) has no content"
        for i, t in enumerate(turns)
        if t.role not in ("system", "tool") and not t.calls and _says_nothing(t.content)
    ]


def _says_nothing(text: str) -> bool:
    """Tell whether a text holds only white space and characters that nobody sees."""
    return not text.strip() or all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def episode_thinks(turns: Sequence[Turn], user: int) -> bool | None:
    """Say whether any reply to a user's turn (up to the next user's) thinks; None without a reply."""
    thinks: bool | None = None
    for turn in turns[user + 1 :]:
        if turn.role == "user":
            break
        if turn.role == "assistant":
            thinks = bool(thinks) or turn.reasoning is not None
    return thinks


def unroll(turns: Sequence[Turn], *, always: bool = False) -> list[Sequence[Turn]]:
    """Cut a conversation into samples, for templates that shorten the thoughts before the last user's turn.

    A thought that a later turn hides can be learned only in a conversation that ends before that turn. One sample per
    user's turn, of which only what follows that turn is trained; a conversation that hides no thought stays whole.

    Args:
        turns: a conversation.
        always: the template writes earlier replies in another way even where they have no thought.
    """
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not always and not any(turn.reasoning is not None for turn in turns[: users[-1]]):
        return [turns]
    ends = [*users[1:], len(turns)]
    return [
        [replace(t, trained=t.trained and i > user) for i, t in enumerate(turns[:end])]
        for user, end in zip(users, ends, strict=True)
    ]


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Split an assistant text into reasoning and answer.

    Returns:
        (reasoning, answer); (None, text) without a think block; (text, "") where the block never closes.
    """
    body = text.lstrip()
    if not body.startswith(THINK_OPEN):
        return None, text
    reasoning, closed, answer = body.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    return reasoning.strip("\n"), answer.lstrip("\n") if closed else ""


def _shape_problems(messages: Any) -> list[str]:
    if isinstance(messages, str | Mapping):
        return [f"`messages` is no list of turns but {type(messages).__name__}: map it (`columns`)"]
    if not isinstance(messages, Sequence) or not messages:
        return ["no messages"]
    problems: list[str] = []
    due: tuple[str, ...] = ("user",)
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in ROLES:
            problems.append(f"turn {i} has the unknown role {role!r} (known: {', '.join(ROLES)})")
            continue
        calls = role == "assistant" and message.get("tool_calls")
        if not isinstance(message.get("content"), str) and not (calls and message.get("content") is None):
            problems.append(f"turn {i} ({role}) has no text in `content`")
        if role == "system":
            problems += [f"turn {i} is a system turn that isn't the first"] * (i > 0)
            continue
        if role not in due:
            problems.append(f"turn {i} is the {role}'s where the {due[0]}'s is due")
        if role == "assistant":
            due = ("user", "tool") if calls else ("user",)
        else:
            due = ("assistant", "tool") if role == "tool" else ("assistant",)
    if not problems and messages[-1]["role"] == "system":
        problems.append("no user turn")
    return problems


def _read(message: Mapping[str, Any]) -> tuple[Turn, str | None]:
    role, content = message["role"], message.get("content") or ""
    if role == "assistant":
        return _read_reply(message, content)
    if role == "tool":
        return Turn(role, content, name=message.get("name"), call_id=message.get("tool_call_id")), None
    own = message.get("mode")
    if role == "user" and own is not None and own not in MODES:
        return Turn(role, content), f"has the unknown mode {own!r} (known: {', '.join(MODES)})"
    return Turn(role, content, mode=own if role == "user" else None), None


def _read_reply(message: Mapping[str, Any], content: str) -> tuple[Turn, str | None]:
    reasoning, answer = split_reasoning(content)
    if reasoning is not None and THINK_CLOSE not in content:
        return Turn("assistant", content), "opens a think block that never closes"
    if reasoning is None and THINK_CLOSE in content.partition(THINK_OPEN)[0]:
        return Turn("assistant", content), "closes a think block that it never opened"
    if THINK_OPEN in answer or THINK_CLOSE in answer:
        return Turn("assistant", content), "has a think block that isn't at its beginning"
    given = message.get("reasoning_content")
    given = given.strip("\n") if isinstance(given, str) and given.strip() else None
    if given and THINK_CLOSE in given:
        return Turn("assistant", content), f"has {THINK_CLOSE} inside its `reasoning_content`"
    if given and reasoning:
        return Turn("assistant", content), "has reasoning both in `reasoning_content` and in its content"
    calls, trouble = _read_calls(message.get("tool_calls"))
    thought = given or (reasoning if reasoning and reasoning.strip() else None)
    return Turn("assistant", answer, thought, calls, trained=message.get("trained") is not False), trouble


def _read_calls(calls: Any) -> tuple[tuple[Call, ...], str | None]:
    if not calls:
        return (), None
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return (), "has `tool_calls` that are no list"
    read = []
    for call in calls:
        function = function_of(call) if isinstance(call, Mapping) else {}
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
            except json.JSONDecodeError:
                return (), "calls a tool with arguments that are broken JSON"
        if not isinstance(function.get("name"), str) or not isinstance(arguments, Mapping):
            return (), "calls a tool without a name, or with arguments that are no mapping"
        read.append(Call(function["name"], arguments, call))
    return tuple(read), None
