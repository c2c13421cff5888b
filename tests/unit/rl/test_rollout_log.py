"""Rollouts on disk: what was said in all parts of a conversation, with a log-prob for each token."""

from dataclasses import replace

import numpy as np
import pytest

from nemo_cascade.data.chat.encode import load_tokenizer
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.report.samples import read_rollouts
from nemo_cascade.rl.batch import RolloutBatch, marked
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.rollout_log import write_rollouts
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn


def test_tokens_and_logprobs_are_those_of_all_turns_also_of_a_conversation_that_was_written_anew(tmp_path):
    train_nano_tokenizer((), tmp_path)
    tokenizer = load_tokenizer(tmp_path)

    def turn(given, said, logprob):
        ids = tokenizer.encode(said)
        logprobs = np.full(len(ids), logprob, np.float32)
        return first_turn("t", 0, tokenizer.encode(given), np.array(ids), logprobs, FinishReason.STOP, 3)

    early, late = turn("What is 3?", "Hm, a number.", -0.5), turn("What is 3, shortly?", "Three.", -0.25)
    answer = replace(late, earlier=(early,))
    task = Task("t", "math", "math", np.array(tokenizer.encode("What is 3?")), {"mode": "think"})
    group = Group(task, [answer], [Verdict(1.0)])
    write_rollouts(
        tmp_path, 1, RolloutBatch([group], marked([group], [], tokenizer), np.ones((1, 1)), 0, 1), tokenizer, 1
    )
    (line,) = read_rollouts(tmp_path / "rollouts" / "step_000001.jsonl.gz")
    assert [(turn["given"], turn["said"]) for turn in line["turns"]] == [
        ("What is 3?", "Hm, a number."),
        ("What is 3, shortly?", "Three."),
    ]
    assert "".join(line["tokens"]) == "Hm, a number.Three."
    first, second = (turn["tokens"] for turn in line["turns"])
    assert line["logprobs"] == pytest.approx([-0.5] * first + [-0.25] * second)
