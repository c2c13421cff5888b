r"""The format of Nemotron-4 340B (arXiv 2406.11704), as the model's card states it in words: it has no template.

    not trained: <extra_id_0>System\n...\n<extra_id_1>User\n...\n<extra_id_1>Assistant\n
    trained:     ...\n<extra_id_1>

The token that opens the next turn is what ends a reply. A system turn is always written, empty as the card recommends
it where none is given; there are no tools, and no mode: a thought is written as any text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_cascade.data.chat.templates.base import Segment
from nemo_cascade.data.chat.templates.chatml import ChatMl
from nemo_cascade.data.chat.templates.turns import Mode, Tools, Turn

SYSTEM, TURN = "<extra_id_0>", "<extra_id_1>"


class Nemotron4(ChatMl):
    """Nemotron-4 340B."""

    name = "nemotron_4"
    turn_end, ends = TURN, (TURN,)
    control = (SYSTEM, TURN)
    source = "nemotron_4.jinja"
    constants: Mapping[str, Any] = {}

    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        if tools or any(turn.calls or turn.role == "tool" for turn in turns):
            return [], ["has tools, which Nemotron-4's format has no place for"]
        first, rest = (turns[0].content, turns[1:]) if turns[0].role == "system" else ("", turns)
        segments: list[Segment] = []
        # Behind a reply its end has opened the next turn.
        head, opens = f"{SYSTEM}System\n{first}\n", TURN
        for turn in rest:
            if turn.role == "user":
                head += f"{opens}User\n{turn.content}\n"
                opens = TURN
            else:
                segments += [Segment(f"{head}{TURN}Assistant\n", False)]
                segments += [Segment(f"{self._reply(turn, True)[1]}\n{TURN}", turn.trained)]
                head, opens = "", ""
        if rest[-1].role != "assistant":
            segments.append(Segment(f"{head}{TURN}Assistant\n", False))
        return segments, []
