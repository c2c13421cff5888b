"""Environments that say something random, whatever the policy says: results of a tool, or a user's next words."""

from random import Random

from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.dialogue import Dialogue
from nemo_cascade.environments.environment import Step
from nemo_cascade.types import Verdict

# Letters of many scripts and lengths, joined and combined ones, and what looks like a template's structure.
NATURAL = (
    "a", "é", "e\u0301", "ß", "Ω", "Ж", "中", "𝔄", "🙂", "👩‍🚀", "\u200b", "\u202e", "ﷺ", " ", "\n", "\t", "0", "{",
)  # fmt: skip
PIECES = (
    *NATURAL, "\\boxed{", "<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_response>",
    " /think",
)  # fmt: skip


def words(rng, pieces=PIECES):
    return "x" + "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12))) + "x"


class Talker:
    """Goes on after three turns in four: as a tool in tasks that have tools, else as a user."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def start(self, task):
        self.dialogue = Dialogue(self.tokenizer, task)
        return task.token_ids

    def step(self, trajectory):
        self.dialogue.reply(trajectory)
        rng = Random(f"{trajectory.place}/{trajectory.num_turns}")
        if rng.random() < 0.25:
            return Step(None, Verdict(1.0))
        if not self.dialogue.tools:
            return self.dialogue.asked(words(rng), Verdict(0.0))
        calls = [ToolCall("read") for _ in range(rng.randrange(1, 3))]
        return Step(self.dialogue.results(calls, [words(rng) for _ in calls]), Verdict(0.0))
