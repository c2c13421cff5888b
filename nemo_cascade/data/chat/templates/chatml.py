r"""ChatML and Cascade 1's form of it (arXiv 2512.13607, section 3.1.2).

    not trained: <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n... /think<|im_end|>\n<|im_start|>assistant\n
    trained:     <think>\n...\n</think>\n...<|im_end|>

Plain ChatML has neither a default system turn nor mode flags. In Cascade 1 the flag behind each user turn is the only
switch: a thinking reply opens with a think block, any other has none. Tools are those of both: JSON specifications in
the system turn, calls as JSON, results in a user turn, which is no user's and carries no flag.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_cascade.data.chat.templates.base import Segment, Template
from nemo_cascade.data.chat.templates.turns import Call, Mode, Tools, Turn, episode_thinks

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
DEFAULT_SYSTEM = "You are a helpful and harmless assistant."
FLAGS: dict[Mode, str] = {"think": " /think", "no_think": " /no_think"}
# A flag that somebody wrote: the last word of a turn, or a line of its own.
_LAST_FLAG = re.compile(r"(?:\A|\s+)/(think|no_think)\s*\Z")
_LONE_FLAG = re.compile(r"^[ \t]*/(?:think|no_think)[ \t\r]*$", re.MULTILINE)

_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)


class ChatMl(Template):
    """Plain ChatML."""

    name = "chatml"
    version = 1
    """Raised with every change of the rendered text."""
    default_system = ""
    turn_end, ends = TURN_END, (TURN_END,)
    control: tuple[str, ...] = (TURN_START, TURN_END)

    source = "chatml.jinja"
    constants: Mapping[str, Any] = {"FLAGS": False}

    def __init__(self) -> None:
        text = (Path(__file__).parent / self.source).read_text(encoding="utf-8")
        for name, value in {"DEFAULT_SYSTEM": self.default_system, **self.constants}.items():
            text = text.replace(name, json.dumps(value))
        self.jinja, self.key = text, f"{self.name}-{self.version}"

    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        modes, problems = self._modes(turns, mode)
        if problems:
            return [], problems
        segments: list[Segment] = []
        first = turns[0].content if turns[0].role == "system" else None
        head = self._system(first, tools)
        last_user = max(i for i, t in enumerate(turns) if t.role == "user")
        for i, turn in enumerate(turns):
            if turn.role == "user":
                head += f"{TURN_START}user\n{self._question(turn.content, modes.get(i))}{TURN_END}\n"
            elif turn.role == "tool":
                head += self._result(turns, i)
            elif turn.role == "assistant":
                opening, reply = self._reply(turn, i > last_user)
                head += f"{TURN_START}assistant\n{opening}"
                # Cut off whether trained or not: a prompt with this history then has the same tokens.
                trained = turn.trained and self._is_whole(turn, i > last_user)
                segments += [Segment(head, False), Segment(reply + TURN_END, trained)]
                head = "\n"
        if turns[-1].role != "assistant":
            segments.append(Segment(f"{head}{TURN_START}assistant\n{self._opening(modes[last_user])}", False))
        return segments, []

    def _modes(self, turns: Sequence[Turn], mode: Mode | None) -> tuple[dict[int, Mode | None], list[str]]:
        """Settle the mode of every user's turn."""
        found: dict[int, Mode | None] = {}
        problems = []
        asked = turns[-1].role != "assistant"
        for i, turn in enumerate(turns):
            if turn.role != "user":
                continue
            thinks = episode_thinks(turns, i)
            # In a prompt `mode` is for the reply to come; the history keeps what it did.
            is_last = not any(t.role == "user" for t in turns[i + 1 :])
            given = mode if is_last or not asked else None
            done: Mode | None = None if thinks is None else "think" if thinks else "no_think"
            found[i], trouble = self._mode(turn, given, done, open_ended=asked and is_last)
            if trouble:
                problems.append(f"turn {i} (user) {trouble}")
        return found, problems

    def _mode(
        self, turn: Turn, given: Mode | None, done: Mode | None, *, open_ended: bool
    ) -> tuple[Mode | None, str | None]:
        """Settle one user's turn: what it says, what was given, what its replies did. Plain ChatML shows no mode."""
        return turn.mode or given or done, None

    def _system(self, text: str | None, tools: Tools) -> str:
        parts = [self.default_system if text is None else text, self._declare(tools) if tools else ""]
        whole = "\n\n".join(part for part in parts if part)
        return f"{TURN_START}system\n{whole}{TURN_END}\n" if whole or text is not None else ""

    def _declare(self, tools: Tools) -> str:
        return _TOOLS.format(tools="\n".join(to_json(tool) for tool in tools))

    def _question(self, text: str, mode: Mode | None) -> str:
        return text

    def _opening(self, mode: Mode | None) -> str:
        """Return what the prompt puts at the beginning of a reply."""
        return ""

    def _reply(self, turn: Turn, is_current: bool) -> tuple[str, str]:
        """Return a reply in two parts: what the prompt opened of it, and what is generated."""
        thought = f"<think>\n{turn.reasoning}\n</think>\n" if turn.reasoning is not None else ""
        calls = "\n".join(self._call(call) for call in turn.calls)
        return "", thought + turn.content + ("\n" if turn.content and calls else "") + calls

    def _is_whole(self, turn: Turn, is_current: bool) -> bool:
        """Tell whether a reply is written as the model wrote it: only then may it be trained."""
        return True

    def _call(self, call: Call) -> str:
        return f"<tool_call>\n{to_json({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"

    def _result(self, turns: Sequence[Turn], i: int) -> str:
        """Render a tool's turn; those that follow each other share one user turn."""
        opens = f"{TURN_START}user" if turns[i - 1].role != "tool" else ""
        closes = f"{TURN_END}\n" if i + 1 == len(turns) or turns[i + 1].role != "tool" else ""
        return f"{opens}\n<tool_response>\n{turns[i].content}\n</tool_response>{closes}"


class Cascade1(ChatMl):
    """Nemotron-Cascade: a default system turn, and a mode flag behind every user turn."""

    name = "cascade1"
    default_system = DEFAULT_SYSTEM
    constants: Mapping[str, Any] = {"FLAGS": True}

    def _mode(
        self, turn: Turn, given: Mode | None, done: Mode | None, *, open_ended: bool
    ) -> tuple[Mode | None, str | None]:
        text, written = split_flag(turn.content)
        if written and not text:
            return None, "says nothing but a mode flag"
        if split_flag(text)[1] or _LONE_FLAG.search(text):
            return None, "has a mode flag elsewhere than at its end, or two of them"
        if turn.mode and written and turn.mode != written:
            return None, f"says mode {turn.mode} and ends with {FLAGS[written]}"
        settled = turn.mode or written or given or done
        if settled is None:
            return None, "leaves open whether the reply thinks (no mode given)"
        # A prompt inside a tool episode is still open: what it did so far binds only where it thought.
        if done is not None and settled != done and not (open_ended and done == "no_think"):
            return None, f"asks for {settled} and is answered with {done}"
        return settled, None

    def _question(self, text: str, mode: Mode | None) -> str:
        assert mode is not None, "settled by _mode"
        return text if text.endswith(FLAGS[mode]) else split_flag(text)[0] + FLAGS[mode]


def split_flag(text: str) -> tuple[str, Mode | None]:
    """Split a user's text into what was asked and the mode flag behind it; (text, None) without a flag."""
    found = _LAST_FLAG.search(text)
    if found is None:
        return text, None
    return text[: found.start()], "think" if found[1] == "think" else "no_think"


def to_json(value: Any) -> str:
    """Write a value as HF's `tojson` does: on one line, in the order it came in, unicode as it is."""
    return json.dumps(value if not isinstance(value, Mapping) else dict(value), ensure_ascii=False)
