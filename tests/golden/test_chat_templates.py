"""Conversations of our own as the published templates write them: Nemotron Nano 2's card, and Nemotron-4's.

Made with the templates on the cards of NVIDIA-Nemotron-Nano-9B-v2 and Nemotron-4-340B-Instruct; modes are flags in the
text. A reply's end is the next turn's opening in Nemotron-4's format, so there ours ends with it.
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
