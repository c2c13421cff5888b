"""Write turns with an HF template, exactly as `apply_chat_template` writes the messages that they were read from.

Templates differ in how they want to be given a message. What can't be told from the template's text is tried out:

- a thought stands in a field of its own (`reasoning_content`, `reasoning`, ...), or as a think block in the content;
- a content is a text, or a list of parts (models that also see images);
- the arguments of a call are a mapping, or JSON text; where nothing is said beside it, the content is "", or None.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2

from nemo_cascade.data.chat.templates.chatml import to_json
from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN, Call, Mode, Tools, Turn, episode_thinks

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
# What a template's own code may raise on a conversation that it wasn't written for.
REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_READS_MODE = re.compile(r"""['"]mode['"]|\.mode\b""")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ClockRead(jinja2.TemplateError):
    """A template asks for today's date, and none is pinned."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a Jinja template needs of its tokenizer.

    Attributes:
        special: texts of its special tokens (the ones that may end a turn).
        encode: text -> ids, nothing added.
        named: `bos_token`, `eos_token` and so on, for the template to write.
        date: what the template is told of today's date, as in 2026-11-29; None: it may not ask.
    """

    special: frozenset[str]
    encode: Callable[[str], Sequence[int]]
    named: Mapping[str, str] = field(default_factory=dict)
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How a template wants its messages.

    Attributes:
        thought: the field of a thought; None: a think block in the content.
        parts: a content is a list of parts.
        arguments_as_text: a call's arguments are JSON text.
        null_content: a reply that only calls tools has None as its content.
    """

    thought: str | None = None
    parts: bool = False
    arguments_as_text: bool = False
    null_content: bool = False


class Renderer:
    """Renders turns with one template.

    Args:
        text: the template.
        tokens: of the tokenizer it belongs to.
        form: how it wants its messages.
    """

    def __init__(self, text: str, tokens: Tokens, form: Form | None = None) -> None:
        self.text, self._tokens, self.form = text, tokens, form or Form()
        self._reads_mode = _READS_MODE.search(text) is not None

    def shaped(self, **form: Any) -> Renderer:
        """Return a renderer that gives the messages in another form."""
        return Renderer(self.text, self._tokens, replace(self.form, **form))

    def write(self, turns: Sequence[Turn], tools: Tools, *, thinks: bool, prompt: bool = False) -> str:
        """Render turns.

        Args:
            turns: a conversation.
            tools: specifications of its tools.
            thinks: whether the last reply, or the one to come, thinks.
            prompt: end with the opening of the reply to come.

        Raises:
            REFUSALS: the template doesn't take the conversation.
        """
        return self._render(turns, tools, thinks, add_generation_prompt=prompt)[0]

    def marks(self, turns: Sequence[Turn], tools: Tools, *, thinks: bool) -> list[tuple[int, str]]:
        """Return begin and text of every stretch that the template marks as generated."""
        text, spans = self._render(turns, tools, thinks, return_assistant_tokens_mask=True)
        return [(begin, text[begin:end]) for begin, end in spans]

    def _render(
        self, turns: Sequence[Turn], tools: Tools, thinks: bool, **settings: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            [self._messages(turns)],
            tools=[dict(t) for t in tools] or None,
            chat_template=self.text,
            # One switch by the names that templates have for it; `mode` is that of our own.
            enable_thinking=thinks,
            thinking=thinks,
            **({"mode": "think" if thinks else "no_think"} if self._reads_mode else {}),
            strftime_now=self._now,
            **settings,
            **self._tokens.named,
        )
        return str(texts[0]), spans[0] if spans else []

    def _now(self, form: str) -> str:
        if self._tokens.date is None:
            raise ClockRead("it writes today's date, and model.chat_template_date pins none")
        return datetime.date.fromisoformat(self._tokens.date).strftime(form)

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        return [self._message(turns, i) for i in range(len(turns))]

    def _message(self, turns: Sequence[Turn], i: int) -> dict[str, Any]:
        turn, thought = turns[i], self.form.thought
        content = turn.content
        if turn.reasoning is not None and thought is None:
            content = f"{THINK_OPEN}\n{turn.reasoning}\n{THINK_CLOSE}\n{content}"
        message: dict[str, Any] = {"role": turn.role, "content": content}
        if self.form.parts:
            message["content"] = [{"type": "text", "text": content}]
        if turn.calls and not content and self.form.null_content:
            message["content"] = None
        if turn.reasoning is not None and thought is not None:
            message[thought] = turn.reasoning
        if turn.calls:
            message["tool_calls"] = [self._call(call) for call in turn.calls]
        message |= {k: v for k, v in {"name": turn.name, "tool_call_id": turn.call_id}.items() if v is not None}
        if turn.role == "user" and self._reads_mode and (mode := _mode_of(turns, i)):
            message["mode"] = mode
        return message

    def _call(self, call: Call) -> dict[str, Any]:
        arguments: Any = dict(call.arguments)
        if self.form.arguments_as_text:
            arguments = call.written if call.written is not None else to_json(arguments)
        function = call.given.get("function")
        if isinstance(function, Mapping):
            return {**call.given, "function": {**function, "arguments": arguments}}
        labelled = {"id": call.id} if call.id is not None else {}
        return {**labelled, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _mode_of(turns: Sequence[Turn], user: int) -> Mode | None:
    """Return the mode of a user's turn where its message or its replies say one."""
    thinks = episode_thinks(turns, user)
    return turns[user].mode or (None if thinks is None else "think" if thinks else "no_think")
