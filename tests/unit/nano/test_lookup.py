"""The nano tools: what is learned from, what is asked, and the environment that knows the numbers."""

import json
from collections import Counter

from nemo_cascade.data.chat.encode import encode_conversation, load_tokenizer
from nemo_cascade.nano.lookup import LookupEnvironment
from tests.support.played import Player, call


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_nobody_knows_the_answer_without_the_tool_and_few_conversations_show_how_it_is_asked(nano):
    learned = rows(nano, "tools_sft")
    asked = {
        name: {r["messages"][0]["content"] for r in rows(nano, f"tools_{name}")} for name in ("sft", "train", "test")
    }
    assert not asked["train"] & asked["test"] | asked["sft"] & (asked["train"] | asked["test"])
    assert (len(asked["train"]), len(asked["test"])) == (1000, 500)
    whole = [r["messages"] for r in learned if not r["messages"][0]["content"].endswith(" +0.")]
    kinds = Counter((len(messages), messages[1].get("trained", True)) for messages in whole)
    assert kinds[4, False] == 3000
    assert 0.03 < kinds[4, True] / (kinds[4, True] + kinds[2, True]) < 0.07
    for row in rows(nano, "tools_test"):
        (place, number), text = next(iter(row["numbers"].items())), row["messages"][0]["content"]
        assert text == f"Read {place}, then {text[-3:-1]}."
        assert int(row["answer"]) == number + int(text[-3:-1])


def test_a_call_and_its_answer_are_few_tokens_and_only_what_the_policy_says_is_learned(nano):
    tokenizer = load_tokenizer(nano / "tokenizer")
    row = next(r for r in rows(nano, "tools_sft") if len(r["messages"]) == 4 and "trained" not in r["messages"][1])
    ids, trained = encode_conversation(tokenizer, row["messages"], None, row["tools"])
    assert len(ids) < 48
    said = tokenizer.decode(ids[trained > 0])
    assert said.startswith('<tool_call>\n{"name": "read", "arguments": {"place": ')
    assert "tool_response" not in said


def test_the_tool_says_what_stands_at_a_place_and_the_verifier_has_the_last_word(nano):
    tokenizer = load_tokenizer(nano / "tokenizer")
    row = {**rows(nano, "tools_test")[0], "mode": "no_think"}
    (place, number) = next(iter(row["numbers"].items()))
    player = Player(tokenizer, LookupEnvironment(tokenizer), row)
    told, step = player.says(call("read", place=int(place)))
    assert f"<tool_response>\n{number}\n</tool_response>" in told
    assert step.verdict is None
    assert "nothing there" in player.says(call("read", place=1000))[0]
    told, step = player.says("\\boxed{1}")
    assert (told, step.verdict) == (None, None)
