"""Random conversations: an environment that says something random, and a policy whose turns soon end."""

from random import Random

from safetensors.torch import load_file, save_file

from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.dialogue import Dialogue
from nemo_cascade.environments.environment import Step
from nemo_cascade.types import Verdict
from tests.support.tiny_policy import write_tiny_folder

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
        return self.dialogue.results(calls, [words(rng) for _ in calls], Verdict(0.0))


def write_talkative(folder, vocab_size, end_id, **changes):
    """Write a random model that ends its turn about every tenth token: dimension 0 is the same whatever was said."""
    write_tiny_folder(folder, vocab_size=vocab_size, eos_token_id=end_id, tie_word_embeddings=False, **changes)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][:, 0] = 4.0
    tensors["lm_head.weight"][:, 0] = 0.0
    tensors["lm_head.weight"][end_id, 0] = 2.5
    save_file(tensors, file, {"format": "pt"})
    return str(folder)
