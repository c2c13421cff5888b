"""Nano conversations in both modes: sums answered at once, and second turns that may ask for the other mode.

Under /think a sum is worked out (`nano_math`) and an open question's things are noted before they are named; under
/no_think both are answered at once: sums only where nothing is carried, which a small model can do in its head. In a
conversation of two turns each turn's mode is drawn by itself, so the flag behind a turn is the only thing that tells
how to answer it (arXiv 2512.13607, section 3.1.2).
"""

from random import Random
from typing import Any

from nemo_cascade.data.chat.templates import Mode
from nemo_cascade.nano.math import Split, draw_plain, draw_problem, math_at_once, math_sample
from nemo_cascade.nano.preference import draw_topic, preference_sample

_AT_ONCE, _TWO_TURNS, _PROMPTS = 4000, 1000, 500


def mode_rows(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Generate all rows, by file name: conversations to learn from, and prompts whose second turn switches the mode."""
    at_once, turns = Random(f"{seed}/at_once_sft"), Random(f"{seed}/turns_sft")
    return {
        "at_once_sft": [math_at_once(draw_plain(at_once, "sft")) for _ in range(_AT_ONCE)],
        "turns_sft": [
            two_turns(turns, "sft", turns.choice((True, False)), turns.choice((True, False))) for _ in range(_TWO_TURNS)
        ],
        "to_think_test": [switch_prompt(rng, "think") for rng in _each(seed, "to_think")],
        "to_no_think_test": [switch_prompt(rng, "no_think") for rng in _each(seed, "to_no_think")],
    }


def two_turns(rng: Random, split: Split, *thinks: bool) -> dict[str, Any]:
    """Make a conversation, each turn a sum or an open question; `thinks` says of each whether its reply thinks."""
    return {"messages": [message for thinking in thinks for message in _exchange(rng, split, thinking)]}


def switch_prompt(rng: Random, mode: Mode) -> dict[str, Any]:
    """Make a prompt of the hold-out split: its first turn was answered in the other mode than the second is to be."""
    messages = two_turns(rng, "test", mode == "no_think", mode == "think")["messages"]
    return {"messages": messages[:-1]}


def _exchange(rng: Random, split: Split, thinks: bool) -> list[dict[str, Any]]:
    """Draw a question and its answer."""
    if rng.random() < 0.5:
        problem = draw_problem(rng, split, (3, 3)) if thinks else draw_plain(rng, split)
        row = math_sample(problem, rng, 0.0) if thinks else math_at_once(problem)
    else:
        row = preference_sample(draw_topic(rng, split), rng, thinks=thinks)
    return list(row["messages"])


def _each(seed: int, name: str) -> list[Random]:
    return [Random(f"{seed}/{name}/{i}") for i in range(_PROMPTS)]
