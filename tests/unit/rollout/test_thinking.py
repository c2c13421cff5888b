"""Which stretches an answer is asked for in, by a budget for its thought."""

import numpy as np
import pytest

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rollout.thinking import Draft, Stretch, Thoughts
from nemo_cascade.types import FinishReason, Question

MOST = {"max_tokens": 40, "thinking_budget": 8, "thinking_overrun": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_nano_tokenizer((), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def said(folder, tokenizer, text, prompt="<|im_start|>assistant\n<think>\n", **sampling):
    """Let an engine say a text as far as it is asked to; return the answer, and the lengths that were asked for."""
    thoughts = Thoughts(SamplingConfig(**MOST | sampling), folder)
    ids, place, asked = tokenizer.encode(text), 0, []
    step = thoughts.first(Draft("0/0", Question("t", tokenizer.encode(prompt), range(1)), 0, 5))
    while isinstance(step, Stretch):
        asked.append(step.max_tokens)
        part = ids[place : place + step.max_tokens]
        ends = [i for i, token in enumerate(part) if token in (tokenizer.end_id, *step.stops)]
        part = part[: ends[0] + 1] if ends else part
        place += len(part)
        reason = FinishReason.STOP if ends else FinishReason.LENGTH
        read = len(step.draft.context) + len(part) - 1
        experts = np.full((read, 1, 1), len(asked), np.int16)  # a stretch's number, of all that was read for it
        draft = step.draft.followed_by(part, np.full(len(part), -1.0, np.float32), reason, experts)
        step = thoughts.next(draft, [tokenizer.end_id])
    return step.trajectory(3), asked


def told(tokenizer, answer):
    return response_text(tokenizer, answer.response_ids, answer.context_ids)


def test_an_answer_without_a_budget_is_asked_for_at_once(folder, tokenizer):
    answer, asked = said(folder, tokenizer, "0" * 50, thinking_budget=None, thinking_overrun=0)
    assert asked == [40]
    assert (answer.num_sampled, answer.finish_reason) == (40, FinishReason.LENGTH)


def test_a_thought_goes_on_to_the_end_of_its_line_and_is_closed_there(folder, tokenizer):
    answer, asked = said(folder, tokenizer, "0123456789\n\n7<|im_end|>")
    assert asked == [8, 4, 28]  # of 40, 11 are used and 1 forced: the line's end is there already
    assert told(tokenizer, answer) == "<think>\n0123456789\n</think>\n7"
    assert (answer.finish_reason, answer.num_sampled) == (FinishReason.STOP, 14)
    (turn,) = answer.turns
    begin, end = turn.forced
    assert tokenizer.decode(answer.token_ids[begin:end]) == "</think>"
    assert answer.trained[begin:end].sum() == 0
    assert (answer.versions[begin:end] == -1).all()
    assert answer.trained[turn.begin :].sum() == len(answer.sampled_logprobs) == 14
    assert (answer.logprobs[answer.trained > 0] == -1).all()
    assert answer.logprobs[begin:end].any() == False  # noqa: E712
    # A stretch's last token is read with the next one; what was read before keeps its first experts.
    first, second = turn.begin + 8 - 1, turn.begin + 11 - 1
    wanted = np.repeat([1, 2, 3, -1], [first, second - first, len(answer.token_ids) - 1 - second, 1])
    assert np.array_equal(answer.routed_experts[:, 0, 0], wanted)


def test_a_line_that_never_ends_is_broken_off_at_budget_and_overrun(folder, tokenizer):
    answer, asked = said(folder, tokenizer, "0" * 12 + "\n7<|im_end|>")
    assert asked == [8, 4, 26]
    assert told(tokenizer, answer) == f"<think>\n{'0' * 12}\n</think>\n7"
    answer, asked = said(folder, tokenizer, "0" * 12 + "\n7<|im_end|>", thinking_overrun=0)
    assert asked == [8, 30]
    assert told(tokenizer, answer) == f"<think>\n{'0' * 8}\n</think>{'0' * 4}\n7"


def test_what_follows_the_closing_has_the_tokens_that_training_data_have(tmp_path):
    """One token may hold the line's end and how an answer begins: a forced end would part them."""
    train_nano_tokenizer((), folder := tmp_path, phrases=["\n\\boxed{"])
    tokenizer, text = load_tokenizer(folder), "0123\n</think>\n\\boxed{7}<|im_end|>"
    answer, _ = said(folder, tokenizer, text.replace("</think>", ""), thinking_budget=4, thinking_overrun=2)
    assert answer.response_ids.tolist() == tokenizer.encode(text).tolist()


def test_a_thought_that_ends_by_itself_and_an_answer_without_one_have_nothing_forced(folder, tokenizer):
    for text, prompt, stretches in (
        ("01\n</think>\n23456789<|im_end|>", "<think>\n", [8, 32]),  # within the budget
        ("01234567\n</think>\n89<|im_end|>", "<think>\n", [8, 4, 31]),  # a line's end, then closed: asked on, forced
        ("0123456789012345<|im_end|>", "<think></think>", [8, 32]),
        ("<think>\n01\n</think>\n012345<|im_end|>", "x", [8, 32]),
        ("012<|im_end|>", "x", [8]),
    ):
        answer, asked = said(folder, tokenizer, text, prompt)
        if len(stretches) == 3:
            assert answer.turns[0].forced != (0, 0), text
            continue
        assert asked == stretches, text
        assert answer.turns[0].forced == (0, 0), text
        assert tokenizer.decode(answer.response_ids) == text


def test_a_closing_without_room_for_an_answer_is_left_out(folder, tokenizer):
    answer, _ = said(folder, tokenizer, "0" * 50, max_tokens=14)
    assert (answer.num_sampled, answer.turns[0].forced, answer.finish_reason) == (12, (0, 0), FinishReason.LENGTH)
