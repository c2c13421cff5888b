"""Write the nano data: SFT sets, RL prompts and hold-out suites for all domains, preference pairs, and a tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.chat.templates.chatml import DEFAULT_SYSTEM, FLAGS
from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.nano import code, instruction, lookup, math, preference, swe
from nemo_cascade.nano.code import code_prompt, code_sample, draw_function
from nemo_cascade.nano.instruction import WORDS, draw_order, instruction_prompt, instruction_sample
from nemo_cascade.nano.lookup import lookup_rows
from nemo_cascade.nano.math import Split, draw_plain, draw_problem, math_prompt, math_sample
from nemo_cascade.nano.modes import mode_rows
from nemo_cascade.nano.preference import preference_rows
from nemo_cascade.nano.swe import NAMES, draw_repair, swe_prompt, swe_sample
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

NANO_VERSION = 12
"""Raised with every change of what is written."""

_TEMPLATE = (f"system\n{DEFAULT_SYSTEM}", "user\n", "assistant\n", *FLAGS.values())
_NAMES = [*(f" {word}" for word in (*WORDS, *NAMES)), *NAMES]
_CODE_SFT, _FEW = 5000, 512
# A set that came later stands last: the tokens of the others keep their numbers.
_TASKS = (code, instruction, math, preference, swe, lookup)

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
    "math": Domain(partial(draw_problem, digits=(3, 3)), math_prompt, math_sample, (6500, 0.0), (3000, 0.6)),
    "instruction": Domain(draw_order, instruction_prompt, instruction_sample, (8000, 0.0), (3000, 0.6)),
    "code": Domain(draw_function, code_prompt, code_sample, (2000, 0.0), (2500, 0.45)),
    "swe": Domain(draw_repair, swe_prompt, swe_sample, (2500, 0.0), (3500, 0.5)),
}


def prepare_nano(folder: str | Path, seed: int) -> None:
    """Write the nano data into a folder, unless this version of it with this seed is there.

    SFT samples, RL prompts and hold-out problems never share a problem: which set a problem belongs to is a hash of
    the problem.
    """

    def write(building: Path) -> None:
        write_row_sets(building, nano_rows(seed))
        train_nano_tokenizer((), building / "tokenizer", nano_phrases())

    write_once(folder, {"kind": "nano", "version": NANO_VERSION, "seed": seed}, write)


def nano_phrases() -> tuple[str, ...]:
    """Return the texts that are one token each."""
    return tuple(dict.fromkeys([*_TEMPLATE, *_NAMES, *(phrase for tasks in _TASKS for phrase in tasks.PHRASES)]))


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
    rng = Random(f"{seed}/code_sft")
    rows["code_sft"] = [code_sample(draw_function(rng, "sft"), rng, 0.3) for _ in range(_CODE_SFT)]
    plain: tuple[tuple[str, Split, int], ...] = (("train", "rl", 1500), ("test", "test", 500))
    for kind, part, count in plain:
        problems = _distinct(count, partial(draw_plain, Random(f"{seed}/{kind}/at_once"), part))
        rows[f"at_once_{kind}"] = [math_prompt(problem) for problem in problems]
    # Few enough that a stage may ask each of them many times before its first step.
    rows["math_few_train"] = rows["math_train"][:_FEW]
    # And so few that a short stage comes to a second epoch.
    rows["code_few_train"] = rows["code_train"][:64]
    for stage in ("sft1", "sft2"):
        Random(f"{seed}/{stage}").shuffle(rows[stage])
    return rows | preference_rows(seed) | mode_rows(seed) | lookup_rows(seed)


def _distinct(count: int, draw: Callable[[], Any]) -> list[Any]:
    """Draw until there are `count` with different names."""
    found: dict[str, Any] = {}
    while len(found) < count:
        drawn = draw()
        found.setdefault(drawn.canonical, drawn)
    return list(found.values())
