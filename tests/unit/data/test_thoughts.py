"""Thoughts taken out of training conversations, or cut short, their answers kept."""

import pytest

from nemo_cascade.config.stages.sft_data import ThoughtsConfig
from nemo_cascade.data.chat.encode import encode_segments
from nemo_cascade.data.chat.rendered import render_samples
from nemo_cascade.data.sft.thoughts import with_thoughts

THOUGHT = " ".join(f"step {i} is done" for i in range(40))


def row(thought=THOUGHT, inside=False, **more):
    reply = {"role": "assistant", "content": "the answer"}
    reply |= {"content": f"<think>\n{thought}\n</think>\nthe answer"} if inside else {"reasoning_content": thought}
    return {"messages": [{"role": "user", "content": "q"}, reply], **more}


def trained_text(given, tokenizer):
    samples, problems = render_samples(tokenizer, given)
    assert problems == []
    ((ids, mask),) = encode_segments(tokenizer, samples)
    return tokenizer.decode(ids), tokenizer.decode(ids[mask > 0])


@pytest.mark.parametrize("inside", [False, True])
def test_without_thoughts_a_reply_is_trained_as_asked_not_to_think(tokenizer, inside):
    given = row(inside=inside, mode="think")
    given["messages"][0] |= {"mode": "think", "content": "q /think"}
    whole, trained = trained_text(with_thoughts(given, ThoughtsConfig(handling="remove"), tokenizer), tokenizer)
    assert trained == "the answer<|im_end|>"
    assert "q /no_think<|im_end|>" in whole
    assert "step" not in whole


@pytest.mark.parametrize("inside", [False, True])
def test_cut_thoughts_break_off_at_a_drawn_budget_and_the_answer_follows(tokenizer, inside):
    rule = ThoughtsConfig(handling="cut", least_tokens=20, most_tokens=30)
    budgets = set()
    for i in range(40):
        given = row(f"{i} {THOUGHT}", inside)
        _, trained = trained_text(with_thoughts(given, rule, tokenizer), tokenizer)
        assert trained.startswith("<think>\n")
        assert trained.endswith("\n</think>\nthe answer<|im_end|>")
        kept = trained.removeprefix("<think>\n").removesuffix("\n</think>\nthe answer<|im_end|>")
        assert f"{i} {THOUGHT}".startswith(kept)
        budgets.add(len(tokenizer.encode(kept)))
        assert with_thoughts(given, rule, tokenizer) == with_thoughts(given, rule, tokenizer)
    assert 20 <= min(budgets) < max(budgets) <= 30


def test_what_is_short_enough_or_doesnt_think_stays_as_it_is(tokenizer):
    rule = ThoughtsConfig(handling="cut", least_tokens=50, most_tokens=60)
    plain = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    for given in (row("brief"), plain):
        assert with_thoughts(given, rule, tokenizer) == given
        assert with_thoughts(given, ThoughtsConfig(), tokenizer) == given
