"""The nano data in both modes: what is rendered, trained and asked, turn by turn."""

import itertools
import json
import re

import pytest

from nemo_cascade.data.chat.encode import load_tokenizer
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.rewards.form import obeys_mode

SETS = ("sft1", "preference_sft", "at_once_sft", "turns_sft")


def read(nano, name):
    return [json.loads(line) for line in (nano / f"{name}.jsonl").read_text().splitlines()]


def exchanges(row):
    """Return of each turn of a training row: the question, its flag, and the reply as it is trained."""
    segments = NAMED["cascade1"].render(row["messages"])
    replies = [s.text.removesuffix("<|im_end|>") for s in segments if s.trained]
    questions = [s.text.rpartition("user\n")[2].partition("<|im_end|>")[0] for s in segments if not s.trained]
    return [
        (*question.rpartition(" ")[::2], reply)
        for question, reply in zip(questions[: len(replies)], replies, strict=True)
    ]


def test_sums_and_open_questions_are_trained_in_both_modes_and_each_reply_has_the_form_of_its_flag(nano):
    seen = set()
    for row in [row for name in SETS for row in read(nano, name)]:
        for question, flag, reply in exchanges(row):
            seen.add((question.split()[0], flag))
            assert obeys_mode(reply, flag.removeprefix("/")), (question, flag, reply)
            if question.startswith("Compute") and flag == "/no_think":
                assert reply == f"\\boxed{{{eval(question[8:-1])}}}"
            if question.startswith("Tell") and flag == "/think":
                thought = reply.removeprefix("<think>\n").partition("\n</think>\n")[0]
                assert thought == f"Name {question.partition(': ')[2]}"
    assert {("Compute", "/think"), ("Compute", "/no_think"), ("Tell", "/think"), ("Tell", "/no_think")} <= seen


def test_sums_that_are_asked_for_at_once_carry_nothing_and_none_of_them_is_trained(nano):
    test, rl, sft = (
        {r["messages"][0]["content"] for r in read(nano, f"at_once_{kind}")} for kind in ("test", "train", "sft")
    )
    assert (len(test), len(rl)) == (500, 1500)
    assert not test & rl
    assert not test & sft
    assert not rl & sft
    for question in test | rl | sft:
        last, sign, digit = re.fullmatch(r"Compute \d\d(\d)([+-])(\d)\.", question).groups()
        assert 0 <= eval(f"{last}{sign}{digit}") <= 9, question


def test_a_conversation_goes_from_any_mode_to_any(nano):
    pairs = [
        tuple(flag for _, flag, _ in exchanges(row)) for row in read(nano, "turns_sft") if len(row["messages"]) == 4
    ]
    for pair in itertools.product(("/think", "/no_think"), repeat=2):
        assert pairs.count(pair) > 0.2 * len(pairs), pair


@pytest.mark.parametrize("mode", ["think", "no_think"])
def test_a_switch_is_asked_for_by_the_last_flag_alone_after_an_answer_in_the_other_mode(nano, mode):
    tokenizer, path = load_tokenizer(nano / "tokenizer"), nano / f"to_{mode}_test.jsonl"
    prompts = PromptSet.load(path, f"to_{mode}", "format", mode, tokenizer, max_prompt_tokens=192).first(300)
    other = {"think": "no_think", "no_think": "think"}[mode]
    seen = {question for row in read(nano, "turns_sft") for question, _, _ in exchanges(row)}
    for prompt in prompts:
        before, _, after = tokenizer.decode(prompt.token_ids).rpartition("<|im_start|>user\n")
        first = before.partition("user\n")[2]
        question, _, rest = first.partition(f" /{other}<|im_end|>\n<|im_start|>assistant\n")
        assert obeys_mode(rest.partition("<|im_end|>")[0], other), before
        assert after.endswith(f" /{mode}<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.record["mode"] == mode
        assert question not in seen
