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


def test_whole_groups_of_all_domains_in_turn_are_kept_each_with_its_own_log_probs(tmp_path):
    train_nano_tokenizer((), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    domains = ["math", "math", "math", "code", "code", "chat"]
    asked = np.array(tokenizer.encode("Hm?"), np.int32)

    def group(number, domain):
        task = Task(f"{domain}/{number}", domain, "math", asked, {"mode": "think"})
        logprobs = np.full(2, -1.0, np.float32)
        said = [
            first_turn(task.task_id, s, asked, np.array([40, 41], np.int32), logprobs, FinishReason.STOP, 1)
            for s in range(2)
        ]
        return Group(task, said, [Verdict(1.0), Verdict(0.0)])

    groups = [group(number, domain) for number, domain in enumerate(domains)]
    batch = RolloutBatch(groups, marked(groups, [], tokenizer), np.ones((6, 2)), 0, 1)
    trainer = [np.full(len(asked) + 2, -float(place), np.float32) for place in range(12)]
    kept = {}
    for step in (1, 2, 3):
        write_rollouts(tmp_path, step, batch, tokenizer, 4, trainer)
        lines = read_rollouts(tmp_path / "rollouts" / f"step_{step:06d}.jsonl.gz")
        kept[step] = [line["prompt_id"] for line in lines[::2]]
        for line, twin in zip(lines[::2], lines[1::2], strict=True):
            number = int(line["prompt_id"].rpartition("/")[2])
            assert (line["trainer_logprobs"], twin["trainer_logprobs"]) == (
                [-2.0 * number] * 2,
                [-2.0 * number - 1] * 2,
            )
    assert kept == {1: ["math/0", "code/3"], 2: ["code/3", "chat/5"], 3: ["chat/5", "math/0"]}
