"""Write the data of `nano_nemotron_3`: what SFT learns from, prompts and hold-out sets by task, and a tokenizer."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.chat.templates.chatml import DEFAULT_SYSTEM, FLAGS
from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.nano import code, instruction, lookup, math, preference
from nemo_cascade.nano.blend import choice, judge, structured
from nemo_cascade.nano.blend.chat import wordy_sample
from nemo_cascade.nano.blend.choice import choice_prompt, choice_sample, draw_choice
from nemo_cascade.nano.blend.judge import asked_comparison, comparison_sample, draw_comparison
from nemo_cascade.nano.blend.structured import draw_form, structured_prompt, structured_sample
from nemo_cascade.nano.code import code_prompt, code_sample, draw_function
from nemo_cascade.nano.instruction import draw_order, instruction_prompt, instruction_sample
from nemo_cascade.nano.lookup import draw_lookup, lookup_conversations, lookup_prompt
from nemo_cascade.nano.math import Split, draw_problem, math_prompt, math_sample
from nemo_cascade.nano.preference import draw_topic, preference_pair, preference_prompt
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

NANO_BLEND_VERSION = 2
"""Raised with every change of what is written."""

Row = dict[str, Any]

# How many prompts each task trains on and is measured on.
_TRAIN, _TEST = 120, 240
_TASKS = (code, instruction, math, preference, lookup, choice, structured, judge)


def prepare_nano_blend(folder: str | Path, seed: int) -> None:
    """Write all sets and a tokenizer, unless this version of them with this seed is there."""

    def write(building: Path) -> None:
        write_row_sets(building, nano_blend_rows(seed))
        train_nano_tokenizer((), building / "tokenizer", _phrases())

    write_once(folder, {"kind": "nano_blend", "version": NANO_BLEND_VERSION, "seed": seed}, write)


def nano_blend_rows(seed: int) -> dict[str, list[Row]]:
    """Generate all rows, by file name; no task is learned from, rewarded and measured on at once."""
    draw_sum = partial(draw_problem, digits=(2, 2))
    rows: dict[str, list[Row]] = {
        "math_sft": _samples(seed, "math", draw_sum, partial(math_sample, quick_fraction=0.4), 5000),
        "instruction_sft": _samples(
            seed, "instruction", draw_order, partial(instruction_sample, careless_fraction=0.5), 3000
        ),
        "code_sft": _samples(seed, "code", draw_function, partial(code_sample, abridged_fraction=0.5), 2000),
        "choice_sft": _samples(seed, "choice", draw_choice, partial(choice_sample, guessed_fraction=0.4), 4000),
        "structured_sft": _samples(
            seed, "structured", draw_form, partial(structured_sample, careless_fraction=0.5), 2000
        ),
        "tools_sft": lookup_conversations(Random(f"{seed}/blend_sft/tools"), 1200, 1200, 1200, 0.1),
        "chat_sft": _samples(seed, "chat", draw_topic, wordy_sample, 1500),
        "judge_sft": _samples(seed, "judge", draw_topic, _verdict, 2000),
    }
    prompts: dict[str, tuple[Callable[[Random, Split], Any], Callable[[Any], Row], Callable[[Any], str]]] = {
        "math": (draw_sum, math_prompt, _canonical),
        "instruction": (draw_order, instruction_prompt, _canonical),
        "code": (draw_function, code_prompt, _canonical),
        "choice": (draw_choice, choice_prompt, _canonical),
        "structured": (draw_form, structured_prompt, _canonical),
        "tools": (draw_lookup, lookup_prompt, lambda task: str(task.text)),
        "chat": (draw_topic, preference_prompt, lambda topic: str(topic.text)),
    }
    for name, (draw, prompt, named) in prompts.items():
        rows[f"{name}_train"] = [prompt(task) for task in _distinct(seed, name, draw, named, "rl", _TRAIN)]
        rows[f"{name}_test"] = [prompt(task) for task in _distinct(seed, name, draw, named, "test", _TEST)]
    return rows | _preferences(seed)


def _preferences(seed: int) -> dict[str, list[Row]]:
    """Generate pairs for a reward model, and comparisons for a generative one."""
    rows: dict[str, list[Row]] = {}
    pairs: tuple[tuple[str, Split, int], ...] = (("pairs", "sft", 3000), ("holdout", "test", 300))
    for name, split, count in pairs:
        rng = Random(f"{seed}/blend_{name}")
        rows[f"chat_{name}"] = [preference_pair(draw_topic(rng, split), rng) for _ in range(count)]
    compared: tuple[tuple[str, Split, int], ...] = (("train", "rl", 2 * _TRAIN), ("test", "test", _TEST))
    for name, split, count in compared:
        rng = Random(f"{seed}/blend_judge_{name}")
        drawn = [draw_comparison(draw_topic(rng, split), rng) for _ in range(count)]
        rows[f"judge_{name}"] = drawn if name == "train" else [asked_comparison(row) for row in drawn]
    return rows


def _samples(
    seed: int, name: str, draw: Callable[[Random, Split], Any], sample: Callable[..., Row], count: int
) -> list[Row]:
    rng = Random(f"{seed}/blend_sft/{name}")
    return [sample(draw(rng, "sft"), rng=rng) for _ in range(count)]


def _verdict(topic: preference.Topic, rng: Random) -> Row:
    return comparison_sample(draw_comparison(topic, rng), rng, 0.5)


def _canonical(task: Any) -> str:
    return str(task.canonical)


def _distinct(
    seed: int,
    name: str,
    draw: Callable[[Random, Split], Any],
    named: Callable[[Any], str],
    split: Split,
    count: int,
) -> Sequence[Any]:
    """Draw so many tasks of different names."""
    rng, found = Random(f"{seed}/blend_{split}/{name}"), dict[str, Any]()
    while len(found) < count:
        task = draw(rng, split)
        found.setdefault(named(task), task)
    return list(found.values())


def _phrases() -> tuple[str, ...]:
    """Return the texts that are one token each."""
    template = (f"system\n{DEFAULT_SYSTEM}", "user\n", "assistant\n", *FLAGS.values())
    words = (f" {word}" for kind in choice.KINDS.values() for word in kind)
    return tuple(dict.fromkeys([*template, *words, *(phrase for tasks in _TASKS for phrase in tasks.PHRASES)]))
