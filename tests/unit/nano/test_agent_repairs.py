"""The nano agents: what they learn from is what the environment says, and only who looks mends anything."""

import json
from random import Random

from nemo_cascade.data.chat.encode import encode_conversation, load_tokenizer
from nemo_cascade.environments.swe.agent import SweAgent
from nemo_cascade.nano.agent_repairs import (
    draw_issue,
    guessing_conversation,
    looking_conversation,
    prepare_nano_agent,
    repair_prompt,
)
from tests.support.played import Player, call


def test_conversations_are_what_the_environment_says_and_who_looks_mends(tmp_path):
    prepare_nano_agent(tmp_path / "data", seed=0)
    rows = {
        name: [json.loads(line) for line in (tmp_path / "data" / f"agent_{name}.jsonl").read_text().splitlines()]
        for name in ("sft", "train", "test")
    }
    asked = {name: {row["messages"][0]["content"] for row in found} for name, found in rows.items()}
    assert not asked["train"] & asked["test"] | asked["sft"] & (asked["train"] | asked["test"])
    assert (len(asked["train"]), len(asked["test"])) == (800, 300)
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer")
    assert max(len(encode_conversation(tokenizer, r["messages"], None, r["tools"])[0]) for r in rows["sft"][:500]) < 90
    whole = [row for row in rows["sft"] if row["messages"][1].get("trained", True)]
    looking = [row for row in whole if _calls(row)[0][0] == "view"]
    assert 0.03 < len(looking) / len(whole) < 0.09
    rng = Random(0)
    for conversation, worth in ((looking_conversation, 1.0), (guessing_conversation, 0.0)):
        repair = draw_issue(rng, "sft")
        shown = conversation(repair, rng) if worth == 0.0 else conversation(repair, trained=True)
        row = {**repair_prompt(repair), "mode": "no_think"}
        assert shown["messages"][:1] == row["messages"]
        player = Player(tokenizer, SweAgent(tokenizer, command_s=5.0, test_s=5.0), row)
        said = [player.says(call(name, **arguments)) for name, arguments in _calls(shown)]
        told = [message["content"] for message in shown["messages"] if message["role"] == "tool"]
        assert all(f"\n{text}\n" in answer for text, (answer, _) in zip(told, said[:-1], strict=True))
        assert said[-1][1].verdict.score == worth


def _calls(row):
    turns = [m for m in row["messages"] if m["role"] == "assistant"]
    return [(m["tool_calls"][0]["function"]["name"], m["tool_calls"][0]["function"]["arguments"]) for m in turns]
