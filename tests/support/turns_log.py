"""Rollouts of several turns in a run folder, played with a shipped environment and written as a stage writes them."""

import json
from dataclasses import replace

import numpy as np

from nemo_cascade.data.chat.encode import load_tokenizer
from nemo_cascade.environments.workplace.assistant import WorkplaceAssistant
from nemo_cascade.environments.workplace.tables import _FILES
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rl.batch import RolloutBatch, marked
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.rollout_log import write_rollouts
from nemo_cascade.types import FinishReason
from tests.support.played import Player, call, tool

EMAIL = ["00000057,inbox,carlos@atlas.com,Hello,2023-11-20 09:00:00,Are you there?"]
ARGUMENTS = {"email_id": "00000057", "body": "Yes, I am. Let us meet on Monday at nine."}


def write_turns(stage, step, scratch):
    """Write a step of two rollouts: one calls a tool twice, the first time wrongly; one is cut off at once."""
    train_nano_tokenizer((), scratch / "tokenizer")
    tokenizer = load_tokenizer(scratch / "tokenizer")
    tables = scratch / "tables"
    tables.mkdir()
    for name, columns in _FILES.items():
        rows = EMAIL if name == "emails" else []
        (tables / f"{name}.csv").write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")
    (tables / "email_addresses.csv").write_text("carlos@atlas.com\n", encoding="utf-8")
    played = [
        (call("email_reply_email", email_id="57", body="Yes."), FinishReason.STOP),
        (call("email_reply_email", **ARGUMENTS), FinishReason.STOP),
        ("Carlos has his answer.", FinishReason.STOP),
    ]
    ends = [_play(tokenizer, tables, said) for said in (played, [("Let me think about it.", FinishReason.LENGTH)])]
    rng = np.random.default_rng(step)
    drawn = [-rng.exponential(0.7, answer.num_sampled).astype(np.float32) for _, answer, _ in ends]
    answers = [
        replace(answer, sample=i, sampled_logprobs=logprobs)
        for i, ((_, answer, _), logprobs) in enumerate(zip(ends, drawn, strict=True))
    ]
    group = Group(ends[0][0], answers, [verdict for _, _, verdict in ends])
    batch = RolloutBatch([group], marked([group], [], tokenizer), np.array([[0.7, -0.7]]), 0, 1)
    trainer = [answer.logprobs + rng.normal(0, 1e-3, len(answer.token_ids)).astype(np.float32) for answer in answers]
    write_rollouts(stage, step, batch, tokenizer, 8, trainer)


def _play(tokenizer, tables, said):
    parameters = ("email_id", "body")
    record = {
        "messages": [{"role": "user", "content": "Reply to Carlos that I am there, and suggest Monday at nine."}],
        "mode": "no_think",
        "tools": [tool("email_reply_email", *parameters, required=parameters)],
        "ground_truth": [{"name": "email_reply_email", "arguments": json.dumps(ARGUMENTS)}],
    }
    player = Player(tokenizer, WorkplaceAssistant(tokenizer, str(tables)), record)
    steps = [player.says(*turn)[1] for turn in said]
    return player.task, player.said, steps[-1].verdict
