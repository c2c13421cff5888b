"""Conversations of our own as published templates write them, and Nemotron-4's format as its card states it.

Nano 2's rows were made with the template on NVIDIA-Nemotron-Nano-9B-v2's card; modes are flags in the text.
Nemotron-4-340B-Instruct's card has no template. It states the format as text, below word for word; the rows were made
with a Jinja template that others wrote for it, so where the card is silent (white space in a message, a system turn
that says something) they hold no more than that template's word. A reply's end is the next
turn's opening in that format (the card's client stops at it and strips it), so there ours ends with it.
"""

import json
from pathlib import Path

import pytest

from nemo_cascade.data.chat.templates import NAMED

HERE = Path(__file__).parent


@pytest.mark.parametrize(("form", "behind"), [("nano_v2", ("\n", "")), ("nemotron_4", ("", "<extra_id_1>"))])
def test_conversations_are_written_as_the_published_template_writes_them(form, behind):
    rows = [json.loads(line) for line in (HERE / f"chat_{form}.jsonl").read_text(encoding="utf-8").splitlines()]
    replies = 0
    for row in rows:
        ours = "".join(s.text for s in NAMED[form].render(row["messages"], None, row.get("tools")))
        if row["messages"][-1]["role"] == "assistant":
            replies += 1
            assert ours + behind[0] == row["text"] + behind[1], row
        else:
            assert ours == row["text"], row
    assert 0 < replies < len(rows)


SINGLE_TURN = """<extra_id_0>System

<extra_id_1>User
{prompt}
<extra_id_1>Assistant
"""
TURNS = """<extra_id_0>System

<extra_id_1>User
{prompt 1}
<extra_id_1>Assistant
{response 1}
<extra_id_1>User
{prompt 2}
<extra_id_1>Assistant
{response 2}
<extra_id_1>User
{prompt N}
<extra_id_1>Assistant
"""


def test_nemotron_4_is_written_as_its_card_states_the_format():
    several = [("user", "{prompt 1}"), ("assistant", "{response 1}"), ("user", "{prompt 2}")]
    several += [("assistant", "{response 2}"), ("user", "{prompt N}")]
    for stated, turns in ((SINGLE_TURN, [("user", "{prompt}")]), (TURNS, several)):
        messages = [{"role": role, "content": text} for role, text in turns]
        assert "".join(s.text for s in NAMED["nemotron_4"].render(messages)) == stated
