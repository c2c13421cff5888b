r"""The format of Nemotron Nano 2 (arXiv 2508.14444), as the chat template on the model's card writes it.

    thinks:     <SPECIAL_11>Assistant\n<think>\n       | ...\n</think>\n\n...\n<SPECIAL_12>
    does not:   <SPECIAL_11>Assistant\n<think></think> | ...\n<SPECIAL_12>

`/think` and `/no_think` are read wherever they stand in a system's or user's text, the last one counts, and none of
them is written. Of an earlier reply neither thought nor opening is written, within a tool episode neither: each reply
is a sample of its own, the last of its conversation. Tools are JSON in the system turn, which is always written; calls
are a JSON list, and so are results, in a user's turn.

Two things are not the card's: a last reply that calls tools has its calls (there they are left out), and nothing is
written behind the last reply's end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nemo_cascade.data.chat.templates.base import Segment
from nemo_cascade.data.chat.templates.cascade2 import Cascade2
from nemo_cascade.data.chat.templates.chatml import to_json
from nemo_cascade.data.chat.templates.turns import Call, Mode, Tools, Turn, function_of

SYSTEM, TURN_START, TURN_END = "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"
# A flag inside a word or a tag would leave the rest of it behind.
_INSIDE = re.compile(r"[\w/<]/(?:no_)?think|/(?:no_)?think[\w/>-]")

_FORMAT = """

If you decide to call any tool(s), use the following format:
<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}, {{"name": "tool_name2", "arguments": "tool_args2"}}]\
</TOOLCALL>

The user will execute tool-calls and return responses from tool(s) in this format:
<TOOL_RESPONSE>[{{"tool_response1"}}, {{"tool_response2"}}]</TOOL_RESPONSE>

Based on the tool responses, you can call additional tools if needed, correct tool calls if any errors are found, or \
just respond to the user."""


class NanoV2(Cascade2):
    """Nemotron Nano 2."""

    name = "nano_v2"
    default_system = ""
    turn_end, ends = TURN_END, (TURN_END,)
    control = (SYSTEM, TURN_START, TURN_END)
    source = "nano_v2.jinja"
    thought_end = "\n</think>\n\n"
    constants: Mapping[str, Any] = {"TOOL_FORMAT": _FORMAT}

    def _parts(self, turns: Sequence[Turn]) -> list[Sequence[Turn]]:
        replies = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        return [
            [replace(turn, trained=turn.trained and n == i) for n, turn in enumerate(turns[: i + 1])] for i in replies
        ]

    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        modes, problems = self._modes(turns, mode)
        if problems:
            return [], problems
        first = turns[0].content if turns[0].role == "system" else ""
        segments: list[Segment] = []
        head = self._system(first, tools)
        for i, turn in enumerate(turns):
            if turn.role == "user":
                head += f"{TURN_START}User\n{without_flags(turn.content)}\n"
            elif turn.role == "tool":
                head += self._result(turns, i)
            elif turn.role == "assistant":
                is_last = i + 1 == len(turns)
                opening, reply = self._reply(turn, is_last)
                head += f"{TURN_START}Assistant\n{opening}"
                # An earlier reply stands without its opening: nothing that the model would write.
                segments += [Segment(head, False), Segment(f"{reply}\n{TURN_END}", turn.trained and is_last)]
                head = "\n"
        if turns[-1].role != "assistant":
            last_user = max(i for i, turn in enumerate(turns) if turn.role == "user")
            segments.append(Segment(f"{head}{TURN_START}Assistant\n{self._opening(modes[last_user])}", False))
        return segments, []

    def _modes(self, turns: Sequence[Turn], mode: Mode | None) -> tuple[dict[int, Mode | None], list[str]]:
        """Settle the mode of every user's turn; flags are the last turn's business, whoever said them."""
        last_user = max(i for i, turn in enumerate(turns) if turn.role == "user")
        problems: list[str] = []
        said: Mode | None = None
        for i, turn in enumerate(turns):
            flag = flag_in(turn.content) if turn.role in ("system", "user") else None
            if flag and _INSIDE.search(turn.content):
                problems.append(f"turn {i} ({turn.role}) has a mode flag inside a word or a tag")
            if flag and turn.mode and turn.mode != flag:
                problems.append(f"turn {i} ({turn.role}) says mode {turn.mode} and holds /{flag}")
            said = flag or said
        last = turns[last_user]
        flagged = [*turns[:last_user], replace(last, mode=last.mode or said), *turns[last_user + 1 :]]
        modes, more = super()._modes(flagged, mode)
        return modes, problems + more

    def _system(self, text: str | None, tools: Tools) -> str:
        said = without_flags(text or "")
        return f"{SYSTEM}System\n" + "\n\n".join([said] * bool(said) + [self._declare(tools)] * bool(tools)) + "\n"

    def _declare(self, tools: Tools) -> str:
        specs = ", ".join(to_json(function_of(tool)) for tool in tools)
        listed = f"<AVAILABLE_TOOLS>[{specs}]</AVAILABLE_TOOLS>"
        return f"You can use the following tools to assist the user if required:\n{listed}{_FORMAT}"

    def _reply(self, turn: Turn, is_current: bool) -> tuple[str, str]:
        text, opening = turn.content.strip(), ""
        if is_current and turn.reasoning is not None:
            opening, text = "<think>\n", f"{turn.reasoning}{self.thought_end}{turn.content}".strip()
        elif is_current:
            opening = "<think></think>"
        calls = ", ".join(self._call(call) for call in turn.calls)
        return opening, text + ("\n\n" if text and calls else "") + (f"<TOOLCALL>[{calls}]</TOOLCALL>" if calls else "")

    def _call(self, call: Call) -> str:
        return f'{{"name": "{call.name}", "arguments": {call.written or to_json(call.arguments)}}}'

    def _result(self, turns: Sequence[Turn], i: int) -> str:
        opens = f"{TURN_START}User\n<TOOL_RESPONSE>[" if turns[i - 1].role != "tool" else ""
        closes = "]</TOOL_RESPONSE>\n" if i + 1 == len(turns) or turns[i + 1].role != "tool" else ", "
        return f"{opens}{turns[i].content}{closes}"


def flag_in(text: str) -> Mode | None:
    """Return the mode that a text asks for, as the card's template reads it; None without a flag."""
    return "think" if "/think" in text else "no_think" if "/no_think" in text else None


def without_flags(text: str) -> str:
    """Return a text without its flags and without white space at its ends."""
    return text.replace("/think", "").replace("/no_think", "").strip()
