"""What a chat template is: messages in, stretches of text out that are either trained or not.

Each stretch is tokenised on its own, so the border of the loss mask is a border of tokens, and what a rollout is
prompted with is an exact prefix of the training sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_cascade.data.chat.templates.turns import (
    NO_REPLY,
    Messages,
    Mode,
    Tools,
    Turn,
    content_problems,
    read_tools,
    read_turns,
    without_empty_system,
)
from nemo_cascade.errors import DataError


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text, all trained or all not."""

    text: str
    trained: bool


class Template(ABC):
    """A chat format.

    Attributes:
        name: for people.
        turn_end: the token that ends a turn; a reply is trained up to and with it.
        ends: it, and what else ends a reply.
        control: tokens that may not stand in a message.
        jinja: the same format as an HF chat template.
        key: changes with every change of the rendered text: part of the key of packed data.
        thought_end: what stands between a thought and its answer.
    """

    name: str
    turn_end: str
    ends: tuple[str, ...]
    control: tuple[str, ...]
    jinja: str
    key: str
    thought_end: str = "\n</think>\n"

    def render(self, messages: Messages, mode: Mode | None = None, tools: Any = None) -> list[Segment]:
        """Render a conversation into segments; concatenated, they are its text.

        An assistant turn's reasoning is its `reasoning_content`, else a think block that opens its content; a think
        block without text is dropped.

        Args:
            messages: see `turns`: an optional system turn, then user, assistant and tool turns.
            mode: whether the reply thinks, where the messages don't say it: of a conversation every reply, of a prompt
                the one to come. None: as the replies do.
            tools: specifications of the tools, a list or its JSON text.

        Returns:
            Untrained and trained segments in turn. A conversation that ends with a user's or a tool's turn ends with
            the opening of the assistant's turn, to be generated from.

        Raises:
            DataError: the messages break the format; lists everything that's wrong.
        """
        turns, specs, problems = self._checked(messages, mode, tools)
        if problems:
            raise DataError("; ".join(problems), value=_shorten(messages))
        segments, problems = self._segments(turns, mode, specs)
        if problems:
            raise DataError("; ".join(problems), value=_shorten(messages))
        return segments

    def samples(self, row: Mapping[str, Any]) -> tuple[list[list[Segment]], list[str]]:
        """Render a training row (`messages`, and perhaps `mode` and `tools`) into samples.

        Returns:
            Rendered samples, most often one, and no problem; or none and everything that's wrong, [NO_REPLY] where
            there is merely nothing to train on.
        """
        mode = row.get("mode")
        turns, specs, problems = self._checked(row.get("messages"), mode, row.get("tools"))
        unsaid = content_problems(turns)
        turns = without_empty_system(turns)
        if turns and not any(t.role == "assistant" and t.trained for t in turns):
            problems = problems or [NO_REPLY]
        elif turns and turns[-1].role != "assistant":
            problems.append("the last turn isn't the assistant's")
        problems += unsaid if problems != [NO_REPLY] else []
        if problems:
            return [], problems
        return self._samples(turns, mode, specs)

    def prompt(self, row: Mapping[str, Any], mode: Mode) -> tuple[list[Segment], list[str]]:
        """Render a row that ends with a user's or a tool's turn up to the reply. Returns segments, or problems."""
        turns, specs, problems = self._checked(row.get("messages"), mode, row.get("tools"))
        problems += content_problems(turns)
        turns = without_empty_system(turns)
        if turns and turns[-1].role == "assistant":
            problems.append("the last turn isn't the user's")
        return ([], problems) if problems else self._segments(turns, mode, specs)

    def _checked(self, messages: Any, mode: Any, tools: Any) -> tuple[list[Turn], Tools, list[str]]:
        turns, problems = read_turns(messages, self.control)
        specs, more = read_tools(tools)
        if mode is not None and mode not in ("think", "no_think"):
            more = [*more, f"unknown mode {mode!r} (known: think, no_think)"]
        return turns, specs, problems + more

    def _samples(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[list[Segment]], list[str]]:
        """Render turns that were read without a problem into samples. Returns them, or what's wrong with the turns."""
        rendered = []
        for part in self._parts(turns):
            if any(t.role == "assistant" and t.trained for t in part):
                segments, problems = self._segments(part, mode, tools)
                rendered.append(segments)
                if problems:
                    return [], problems
        return rendered, []

    def _parts(self, turns: Sequence[Turn]) -> list[Sequence[Turn]]:
        """Cut a conversation into those that are trained each on its own."""
        return [turns]

    @abstractmethod
    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        """Render turns that were read without a problem. Returns segments, or what's wrong with them."""


def _shorten(messages: Any) -> str:
    text = repr(messages)
    return text if len(text) <= 200 else text[:200] + "..."
