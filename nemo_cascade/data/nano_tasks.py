"""Write the nano data: SFT sets, RL prompts and hold-out suites for all domains, preference pairs, and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.nano_code import code_prompt, code_sample, draw_function
from nemo_cascade.data.nano_instruction import WORDS, draw_order, instruction_prompt, instruction_sample
from nemo_cascade.data.nano_math import draw_problem, math_prompt, math_sample
from nemo_cascade.data.nano_modes import mode_rows
from nemo_cascade.data.nano_preference import preference_rows
from nemo_cascade.data.nano_swe import NAMES, draw_repair, swe_prompt, swe_sample
from nemo_cascade.data.nano_tokenizer import train_nano_tokenizer
from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.data.templates import NAMED

NANO_VERSION = 6
"""Raised with every change of what is written."""

_CONVERSATIONS = ("sft1", "sft2", "preference_sft", "modes_sft")

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's tasks.

    Attributes:
        draw: draws a task of a split.
        prompt: makes its prompt row.
        sample: makes a training conversation of it, worse than it could be in the given share of cases.
        sft1, sft2: samples in each SFT set, and that share.
    """

    draw: Callable[[Random, Any], Any]
    prompt: Callable[[Any], dict[str, Any]]
    sample: Callable[[Any, Random, float], dict[str, Any]]
    sft1: tuple[int, float]
    sft2: tuple[int, float]


DOMAINS = {
    "math": Domain(partial(draw_problem, digits=(3, 3)), math_prompt, math_sample, (6000, 0.0), (4000, 0.4)),
    "instruction": Domain(draw_order, instruction_prompt, instruction_sample, (6000, 0.0), (4000, 0.5)),
    "code": Domain(draw_function, code_prompt, code_sample, (4000, 0.5), (3000, 0.5)),
    "swe": Domain(draw_repair, swe_prompt, swe_sample, (5000, 0.5), (4000, 0.5)),
}


def prepare_nano(folder: str | Path, seed: int) -> None:
    """Write the nano data into a folder, unless this version of it with this seed is there.

    SFT samples, RL prompts and hold-out problems never share a problem: which set a problem belongs to is a hash of
    the problem.
    """

    def write(building: Path) -> None:
        sets = nano_rows(seed)
        write_row_sets(building, sets)
        # Every word a thousand times: seen that often, each becomes one token.
        words = [f"{word} {word}" for word in (*WORDS, *NAMES) for _ in range(1000)]
        train_nano_tokenizer(
            [*words, *_rendered(row for name in _CONVERSATIONS for row in sets[name])], building / "tokenizer"
        )

    write_once(folder, {"kind": "nano", "version": NANO_VERSION, "seed": seed}, write)


def nano_rows(seed: int) -> dict[str, Rows]:
    """Generate all rows, by file name; the same seed gives the same rows."""
    rows: dict[str, Rows] = {"sft1": [], "sft2": []}
    for name, domain in DOMAINS.items():
        for stage, (count, share) in (("sft1", domain.sft1), ("sft2", domain.sft2)):
            rng = Random(f"{seed}/{stage}/{name}")
            rows[stage] += [domain.sample(domain.draw(rng, "sft"), rng, share) for _ in range(count)]
        for kind, split, count in (("train", "rl", 2000), ("test", "test", 600)):
            rng = Random(f"{seed}/{kind}/{name}")
            tasks = _distinct(count, partial(domain.draw, rng, split))
            rows[f"{name}_{kind}"] = [domain.prompt(task) for task in tasks]
    for stage in ("sft1", "sft2"):
        Random(f"{seed}/{stage}").shuffle(rows[stage])
    return rows | preference_rows(seed) | mode_rows(seed)


def _distinct(count: int, draw: Callable[[], Any]) -> list[Any]:
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
