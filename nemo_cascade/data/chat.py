r"""ChatML with mode flags (arXiv 2512.13607, section 3.1.2), masked by construction.

A conversation is rendered into segments of text that are either trained or not; each is tokenised on its own, so
the border of the loss mask is a border of tokens, and a prompt is an exact prefix of the training sample:

    not trained: <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n... /think<|im_end|>\n<|im_start|>assistant\n
    trained:     <think>\n...\n</think>\n...<|im_end|>

The flag behind each user turn is the only switch: a thinking reply opens with a think block, any other has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.tokenizer import TURN_END, TURN_START, ChatTokenizer, load_tokenizer
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32

__all__ = [
    "CHAT_TEMPLATE",
    "DEFAULT_SYSTEM",
    "TEMPLATE_VERSION",
    "ChatTokenizer",
    "Mode",
    "Segment",
    "conversation_problems",
    "encode_conversation",
    "encode_prompt",
    "encode_segments",
    "load_tokenizer",
    "render",
    "response_text",
    "split_reasoning",
]

Mode = Literal["think", "no_think"]
Messages = Sequence[Mapping[str, Any]]
Mask = NDArray[np.uint8]

TEMPLATE_VERSION = 1
"""Raised with every change of the rendered text: it is part of the key of packed data."""
DEFAULT_SYSTEM = "You are a helpful and harmless assistant."
FLAGS: dict[str, str] = {"think": " /think", "no_think": " /no_think"}
NO_REPLY = "no assistant turn"
ROLES = ("system", "user", "assistant")
_ASSISTANT = f"{TURN_START}assistant\n"

# The same format for programs that render with an HF chat template; `mode` is per message, think by default.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}"
    "{%- endif %}{%- for m in messages %}{%- set think = m.get('reasoning_content') %}"
    "{{- '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' and think %}{{- '<think>\\n' + think + '\\n</think>\\n' }}{%- endif %}"
    "{{- m['content'] }}"
    "{%- if m['role'] == 'user' %}{{- ' /' + m.get('mode', mode | default('think')) }}{%- endif %}"
    "{{- '<|im_end|>' }}{%- if not loop.last or add_generation_prompt %}{{- '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text, all trained or all not."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    text: str


def render(messages: Messages, mode: Mode | None = None) -> list[Segment]:
    """Render a conversation into segments; concatenated, they are its ChatML text.

    A user turn's flag is its own `mode` field, else a flag that already ends its text, else `mode`, else what the
    reply behind it does. An assistant turn's reasoning is its `reasoning_content`, else a think block that opens
    its content; a think block without text is dropped.

    Args:
        messages: turns with `role` and `content`: an optional system turn, then user and assistant in turns.
        mode: flag of user turns that don't say it themselves; None takes it from the reply. Of a prompt's user
            turns it is only the last one's: those before it have a reply.

    Returns:
        Untrained and trained segments in turn. A conversation that ends with a user turn ends with the opening
        of the assistant's turn, to be generated from.

    Raises:
        DataError: the messages break the format; lists everything that's wrong.
    """
    turns, problems = _read(messages, mode)
    if problems:
        raise DataError("; ".join(problems), value=_shorten(messages))
    segments, head = [], ""
    for turn in turns:
        if turn.role == "assistant":
            segments += [Segment(head, False), Segment(turn.text + TURN_END, True)]
            head = "\n"
        else:
            head += f"{TURN_START}{turn.role}\n{turn.text}{TURN_END}\n"
            head += _ASSISTANT if turn.role == "user" else ""
    return segments if turns[-1].role == "assistant" else [*segments, Segment(head, False)]


def conversation_problems(messages: Any, mode: Mode | None = None, *, ends_with: str = "assistant") -> list[str]:
    """List what makes messages unfit for training (`ends_with` assistant) or as a prompt (user); empty if nothing."""
    problems = _shape_problems(messages)
    if problems:
        return problems
    if messages[-1]["role"] != ends_with:
        without = ends_with == "assistant" and all(m["role"] != "assistant" for m in messages)
        return [NO_REPLY if without else f"the last turn isn't the {ends_with}'s"]
    _, problems = _read(messages, mode)
    for i, message in enumerate(messages):
        content = message["content"]
        answer = split_reasoning(content)[1] if message["role"] == "assistant" else content
        if not answer.strip():
            problems.append(f"turn {i} ({message['role']}) has no content")
    return problems


def encode_segments(tokenizer: ChatTokenizer, conversations: Iterable[Sequence[Segment]]) -> list[tuple[Int32, Mask]]:
    """Tokenise rendered conversations, each segment on its own. Returns ids [n] and mask [n] (1 = trained) of each."""
    rendered = [list(c) for c in conversations]
    pieces = iter(tokenizer.encode_many([s.text for c in rendered for s in c]))
    encoded = []
    for conversation in rendered:
        ids = [next(pieces) for _ in conversation]
        mask = np.repeat(
            np.fromiter((s.trained for s in conversation), np.uint8), np.fromiter((len(i) for i in ids), np.int64)
        )
        encoded.append((np.concatenate([np.asarray(i, dtype=np.int32) for i in ids]), mask))
    return encoded


def encode_conversation(tokenizer: ChatTokenizer, messages: Messages, mode: Mode | None = None) -> tuple[Int32, Mask]:
    """Encode a conversation for training. Returns ids [n] and mask [n]: 1 on assistant content and its end token."""
    return encode_segments(tokenizer, [render(messages, mode)])[0]


def encode_prompt(tokenizer: ChatTokenizer, messages: Messages, mode: Mode | None) -> Int32:
    r"""Encode a conversation that ends with a user turn, up to and with `<|im_start|>assistant\n`. Shape [n].

    Raises:
        DataError: the messages break the format, don't end with a user turn, or leave its mode open.
    """
    if messages and messages[-1].get("role") != "user":
        raise DataError("a prompt must end with a user turn", value=_shorten(messages))
    return encode_segments(tokenizer, [render(messages, mode)])[0][0]


def response_text(tokenizer: ChatTokenizer, response_ids: Sequence[int] | Int32) -> str:
    """Decode a sampled response without its end-of-turn token; other special tokens stay visible."""
    ids = list(response_ids)
    return tokenizer.decode(ids[:-1] if ids and ids[-1] == tokenizer.end_id else ids)


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Split an assistant text into reasoning and answer.

    Returns:
        (reasoning, answer); (None, text) without a think block; (text, "") where the block never closes.
    """
    body = text.lstrip()
    if not body.startswith("<think>"):
        return None, text
    reasoning, closed, answer = body.removeprefix("<think>").partition("</think>")
    return reasoning.strip("\n"), answer.lstrip("\n") if closed else ""


def _read(messages: Any, mode: Mode | None) -> tuple[list[_Turn], list[str]]:
    """Check the messages and settle each turn's text."""
    problems = _shape_problems(messages)
    if mode is not None and mode not in FLAGS:
        problems.append(f"unknown mode {mode!r} (known: {', '.join(FLAGS)})")
    if problems:
        return [], problems
    turns = [] if messages[0]["role"] == "system" else [_Turn("system", DEFAULT_SYSTEM)]
    # In a prompt `mode` is for the reply to come; the history keeps what it did.
    is_prompt = messages[-1]["role"] == "user"
    for i, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "assistant":
            text, trouble = _reply(message)
        elif role == "user":
            reply = messages[i + 1] if i + 1 < len(messages) else None
            text, trouble = _question(message, None if is_prompt and reply else mode, reply)
        else:
            text, trouble = content, None
        if TURN_START in text or TURN_END in text:
            trouble = trouble or "holds a control token in its text"
        if trouble:
            problems.append(f"turn {i} ({role}) {trouble}")
        turns.append(_Turn(role, text))
    return turns, problems


def _shape_problems(messages: Any) -> list[str]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return ["no messages"]
    problems, expected = [], "user"
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in ROLES:
            problems.append(f"turn {i} has the unknown role {role!r} (known: {', '.join(ROLES)})")
            continue
        if not isinstance(message.get("content"), str):
            problems.append(f"turn {i} ({role}) has no text in `content`")
        if role == "system" and i > 0:
            problems.append(f"turn {i} is a system turn that isn't the first")
        elif role != "system" and role != expected:
            problems.append(f"turn {i} is the {role}'s where the {expected}'s is due")
        expected = "assistant" if role == "user" else "user"
    if not problems and messages[-1]["role"] == "system":
        problems.append("no user turn")
    return problems


def _reply(message: Mapping[str, Any]) -> tuple[str, str | None]:
    reasoning, answer = split_reasoning(message["content"])
    if reasoning is not None and "</think>" not in message["content"]:
        return "", "opens a think block that never closes"
    given = message.get("reasoning_content")
    if isinstance(given, str) and "</think>" in given:
        return "", "has </think> inside its `reasoning_content`"
    if given and reasoning:
        return "", "has reasoning both in `reasoning_content` and in its content"
    reasoning = given.strip("\n") if isinstance(given, str) and given.strip() else reasoning
    return (f"<think>\n{reasoning}\n</think>\n{answer}" if reasoning and reasoning.strip() else answer), None


def _question(message: Mapping[str, Any], mode: Mode | None, reply: Mapping[str, Any] | None) -> tuple[str, str | None]:
    content, own = message["content"], message.get("mode")
    if own is not None and own not in FLAGS:
        return content, f"has the unknown mode {own!r} (known: {', '.join(FLAGS)})"
    written = next((name for name, flag in FLAGS.items() if content.endswith(flag)), None)
    if own and written and own != written:
        return content, f"says mode {own} and ends with {FLAGS[written]}"
    thinks = None
    if reply is not None:
        thinks = "think" if _reply(reply)[0].startswith("<think>\n") else "no_think"
    settled = own or written or mode or thinks
    if settled is None:
        return content, "leaves open whether the reply thinks (no mode given)"
    if thinks is not None and settled != thinks:
        return content, f"asks for {settled} and is answered with {thinks}"
    return (content if written else content + FLAGS[settled]), None


def _shorten(messages: Any) -> str:
    text = repr(messages)
    return text if len(text) <= 200 else text[:200] + "..."
