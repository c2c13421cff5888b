"""Write the nano data: SFT sets, RL prompts and hold-out suites for all domains, preference pairs, and a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.nano_instruction import KINDS, WORDS, draw_order, instruction_prompt, instruction_sample
from nemo_cascade.data.nano_math import draw_problem, math_prompt, math_sample
from nemo_cascade.data.nano_preference import preference_rows
from nemo_cascade.data.nano_tokenizer import train_nano_tokenizer
from nemo_cascade.data.prepared import write_once, write_rows
from nemo_cascade.data.templates import NAMED

NANO_VERSION = 4
"""Raised with every change of what is written."""
_EASY_KINDS = ("repeat", "upper", "count", "first", "last", "copy", "comma", "reverse")

Rows = list[dict[str, Any]]


def prepare_nano(folder: str | Path, seed: int) -> None:
    """Write the nano data into a folder, unless this version of it with this seed is there.

    SFT samples, RL prompts and hold-out problems never share a problem: which set a problem belongs to is a hash of
    the problem.
    """

    def write(building: Path) -> None:
        sets = nano_rows(seed)
        for name, rows in sets.items():
            write_rows(building / f"{name}.jsonl", rows)
        # Every word a thousand times in both cases: seen that often, each becomes one token.
        words = [f"{w} {w}" for word in WORDS for w in (word, word.upper()) for _ in range(1000)]
        train_nano_tokenizer([*words, *_rendered([*sets["sft1"], *sets["sft2"]])], building / "tokenizer")

    write_once(folder, {"kind": "nano", "version": NANO_VERSION, "seed": seed}, write)


def nano_rows(seed: int) -> dict[str, Rows]:
    """Generate all rows, by file name; the same seed gives the same rows."""

    def rng(name: str) -> Random:
        return Random(f"{seed}/{name}")

    r = rng("sft1")
    sft1 = [math_sample(draw_problem(r, "sft", (3, 3)), r, 0.0) for _ in range(5000)]
    sft1 += [instruction_sample(draw_order(r, "sft", _EASY_KINDS, (2, 4))) for _ in range(9000)]
    r.shuffle(sft1)
    r = rng("sft2")
    sft2 = [math_sample(draw_problem(r, "sft", (3, 3)), r, 0.4) for _ in range(5000)]
    sft2 += [instruction_sample(draw_order(r, "sft", KINDS, (2, 4))) for _ in range(5000)]
    r.shuffle(sft2)
    prompts: dict[str, Rows] = {}
    for name, split, count in (("train", "rl", 2000), ("test", "test", 600)):
        r = rng(f"math_{name}")
        problems = _distinct(count, lambda r=r, split=split: draw_problem(r, split, (3, 3)))
        prompts[f"math_{name}"] = [math_prompt(p) for p in problems]
        r = rng(f"instruction_{name}")
        orders = _distinct(count, lambda r=r, split=split: draw_order(r, split, KINDS, (2, 4)))
        prompts[f"instruction_{name}"] = [instruction_prompt(o) for o in orders]
    return {"sft1": sft1, "sft2": sft2, **prompts, **preference_rows(seed)}


def _distinct(count: int, draw: Any) -> list[Any]:
    """Draw until there are `count` with different names."""
    found: dict[str, Any] = {}
    while len(found) < count:
        drawn = draw()
        found.setdefault(drawn.canonical, drawn)
    return list(found.values())


def _rendered(rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    for row in rows:
        # Control tokens are added to the vocabulary as they are; the trainer is to see the text between them.
        text = "".join(s.text for s in NAMED["cascade1"].render(row["messages"]))
        yield from text.replace("<|im_start|>", "<|im_end|>").split("<|im_end|>")
