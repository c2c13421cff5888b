"""A policy's turns as messages, and messages as the tokens that follow a turn.

What follows is what the chat template writes behind a reply: it is rendered behind a stand-in for the reply and cut
off there, so that the policy's own tokens are never rendered again. That is right only where the template leaves what
it wrote before as it is, once more turns follow. Whether it does is asked of the template itself; one that doesn't
(earlier thoughts are dropped when a user speaks) makes what follows a sample of its own, rendered anew from the
messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.data.chat.encode import encode_segments, response_text
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall, read_calls
from nemo_cascade.environments.environment import Step
from nemo_cascade.rewards.response import split_response
from nemo_cascade.types import Int32, Task, Trajectory, Verdict

_ID = "call00000"
_CUT = "\n[... {} characters left out]"


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn of the policy.

    Attributes:
        text: what it says behind its thought, without its calls.
        calls: of tools, in order.
        thought: what it thought; empty if nothing.
        ended: its thought came to an end.
    """

    text: str
    calls: list[ToolCall]
    thought: str
    ended: bool


class Dialogue:
    """One sample's conversation.

    Args:
        tokenizer: the policy's.
        task: its record has `messages`, perhaps `tools`, and the `mode` that it is asked in.
    """

    def __init__(self, tokenizer: ChatTokenizer, task: Task) -> None:
        self._tokenizer, self._template = tokenizer, tokenizer.template
        self._messages = [dict(message) for message in task.record.get("messages") or ()]
        self.tools: Sequence[Mapping[str, Any]] = task.record.get("tools") or []
        self._mode = task.record.get("mode")

    def reply(self, trajectory: Trajectory) -> Reply:
        """Read the last turn, and take note of it."""
        text = response_text(self._tokenizer, trajectory.response_ids, trajectory.context_ids)
        parts = split_response(text)
        said, calls = read_calls(parts.answer or "", self.tools)
        message: dict[str, Any] = {"role": "assistant", "content": self.harmless(said)}
        readable = [call for call in calls if call.problem is None]
        if readable and len(readable) == len(calls):
            message["tool_calls"] = _as_messages(readable)
        elif calls:  # what can't be read stays what it is: text
            message["content"] = self.harmless((parts.answer or "").strip())
        self._messages.append(message)
        return Reply(said, calls, parts.reasoning.strip(), parts.answer is not None)

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str], verdict: Verdict | None = None) -> Step:
        """Return the step that hands over calls' results: appended, or where the template rewrites what was, anew."""
        name = next((call.name for call in calls if call.problem is None), self._any_tool())
        called = [ToolCall(call.name if call.problem is None else name) for call in calls]
        turns = [
            {"role": "tool", "content": self.harmless(text), "tool_call_id": f"{_ID[:-1]}{i}", "name": call.name}
            for i, (call, text) in enumerate(zip(called, texts, strict=True))
        ]
        self._messages += turns
        return self._step(turns, called, verdict)

    def asked(self, text: str, verdict: Verdict | None = None) -> Step:
        """Return the step that lets the user say a text: appended, or where the template rewrites what was, anew."""
        turns = [{"role": "user", "content": self.harmless(text)}]
        self._messages += turns
        return self._step(turns, (), verdict)

    def _step(self, turns: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall], verdict: Verdict | None) -> Step:
        if self._extends(turns, calls):
            return Step(self._behind(turns, calls), verdict)
        segments = self._template.render(self._messages, self._mode, self.tools or None)
        return Step(encode_segments(self._tokenizer, [segments])[0][0], verdict, anew=True)

    def _extends(self, turns: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall]) -> bool:
        """Tell whether the template writes a reply in the same way when these turns follow as when nothing does."""
        before = self._text(self._stand_in(calls))
        return self._text([*self._stand_in(calls), *turns]).startswith(before)

    def harmless(self, text: str) -> str:
        """Return a text in which nothing would be read as the template's structure."""
        while found := self._tokenizer.control_in(text, tags=True):
            text = text.replace(found, f"{found[0]} {found[1:]}")
        return text

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """All that was said, without thoughts."""
        return self._messages

    def _behind(self, turns: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall]) -> Int32:
        segments = self._template.render([*self._stand_in(calls), *turns], self._mode, self.tools or None)
        return np.asarray(self._tokenizer.encode(segments[-1].text), np.int32)

    def _stand_in(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """Return a question and a reply, of the sample's mode; what stands in them doesn't matter."""
        thought = {"reasoning_content": "x"} if self._mode == "think" else {}
        called = {"tool_calls": _as_messages(calls)} if calls else {}
        reply = {"role": "assistant", "content": "" if calls else "x", **thought, **called}
        return [{"role": "user", "content": "x"}, reply]

    def _text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        segments = self._template.render(messages, self._mode, self.tools or None)
        return "".join(segment.text for segment in segments)

    def _any_tool(self) -> str:
        functions = [tool.get("function", tool) for tool in self.tools]
        return str(functions[0].get("name")) if functions else "none"


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters, with a word on how many are left out."""
    return text if len(text) <= most else text[:most] + _CUT.format(len(text) - most)


def _as_messages(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{_ID[:-1]}{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": dict(call.arguments)},
        }
        for i, call in enumerate(calls)
    ]
