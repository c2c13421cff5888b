"""Rows dealt out for a first run: columns by their usual names, and no prompt on both sides."""

import json

import pytest

from nemo_cascade.cli.first_run.rows import deal
from nemo_cascade.errors import DataError


def written(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_prompt_that_stands_in_several_rows_is_trained_on_or_measured_on(tmp_path):
    rows = [{"question": f"Say w{i % 8}.", "answer": f"w{i}"} for i in range(20)]
    dealt = deal(written(tmp_path, rows), tmp_path / "data")
    assert dealt.columns.mapping(replies=True) == {"user": "question", "assistant": "answer"}
    train, held = ({row["question"] for row in read(file)} for file in (dealt.train, dealt.held_out))
    assert not train & held
    assert len(train) + len(held) == 8
    assert (dealt.count, dealt.held) == (len(read(dealt.train)), len(read(dealt.held_out)))


def test_turns_are_asked_up_to_their_last_reply_which_a_reward_may_read(tmp_path):
    turns = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(10)]
    dealt = deal(written(tmp_path, [{"messages": t} for t in turns]), tmp_path / "data")
    assert dealt.has_replies
    for row in [*read(dealt.prompts), *read(dealt.held_out)]:
        assert [turn["role"] for turn in row["messages"]] == ["user"]
        assert row["reference"] == row["messages"][0]["content"].replace("q", "a")


def test_rows_without_a_conversation_are_refused_by_their_place(tmp_path):
    with pytest.raises(DataError, match=r"rows.jsonl:1: a, b; allowed: messages"):
        deal(written(tmp_path, [{"a": 1, "b": 2}] * 3), tmp_path / "data")
    with pytest.raises(DataError, match="too few prompts"):
        deal(written(tmp_path, [{"prompt": "x", "completion": "y"}] * 3), tmp_path / "data")
