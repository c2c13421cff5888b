"""Write the smol data: real docstrings of installed packages to fine-tune on, and word problems to reinforce."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.nano.instruction import WORDS
from nemo_cascade.nano.math import Split, split_of
from nemo_cascade.nano.real_text import documented_functions, require_packages

SMOL_VERSION = 1
"""Raised with every change of what is written."""
PACKAGES = ("jinja2", "networkx", "rich")
_NAMES = ("Anna", "Ben", "Chen", "Dana", "Emil", "Fatima", "Goran", "Hana")
_THINGS = ("apples", "books", "coins", "cups", "eggs", "keys", "pens", "stamps")
_BOXED = "Put the final answer in \\boxed{}."

Row = dict[str, Any]


def prepare_smol(folder: str | Path, seed: int) -> None:
    """Write the smol data into a folder, unless the same data is there.

    Files: sft.jsonl (200 docstrings, 60 worked word problems, 40 instructions), math_train.jsonl, math_test.jsonl,
    instruction_test.jsonl. No two files share a problem: word problems are split by a hash of their text.

    Raises:
        RuntimeUnavailableError: a package whose docstrings are used isn't installed.
    """
    versions = require_packages(PACKAGES)
    recipe = {"kind": "smol", "version": SMOL_VERSION, "seed": seed, "packages": versions}
    write_once(folder, recipe, lambda building: write_row_sets(building, smol_rows(seed)))


def smol_rows(seed: int) -> dict[str, list[Row]]:
    """Generate all rows, by file name; the same seed and package versions give the same rows."""
    rng = Random(f"{seed}/smol")
    found = list({str(row): row for package in PACKAGES for row in docstring_rows(package)}.values())
    sft = rng.sample(found, 200)
    sft += [_worked(*_problem(rng, "sft")) for _ in range(60)]
    orders = _distinct(lambda: _order(rng), 100)
    sft += [_answered(text, expected) for text, expected in orders[:40]]
    rng.shuffle(sft)
    train = _distinct(lambda: _problem(rng, "rl"), 512)
    test = _distinct(lambda: _problem(rng, "test"), 64)
    return {
        "sft": sft,
        "math_train": [_asked(text, answer=str(answer)) for text, _, answer in train],
        "math_test": [_asked(text, answer=str(answer)) for text, _, answer in test],
        "instruction_test": [
            _asked(text, instruction={"kind": "exact", "expected": expected}) for text, expected in orders[40:]
        ],
    }


def docstring_rows(package: str) -> Iterator[Row]:
    """Yield a conversation for each documented function of a package: its signature, answered with its summary."""
    for function in documented_functions(package):
        summary, signature = function.summary, function.signature
        if 30 <= len(summary) <= 160 and summary.endswith(".") and 20 <= len(signature) <= 120:
            yield _answered(f"Write a one-sentence docstring for this Python function.\n\n{signature}", summary)


def _problem(rng: Random, split: Split) -> tuple[str, str, int]:
    """Draw a word problem of a split: its text, its working and its answer."""
    while True:
        name, other = rng.sample(_NAMES, 2)
        thing, a, b, c = rng.choice(_THINGS), rng.randint(2, 30), rng.randint(2, 30), rng.randint(2, 9)
        problems = (
            (f"{name} has {a} {thing} and gets {b} more from {other}. How many {thing} does {name} have now?",
             f"{a} + {b} = {a + b}", a + b),
            (f"{name} buys {c} boxes with {a} {thing} each. How many {thing} is that?",
             f"{c} * {a} = {c * a}", c * a),
            (f"{name} has {a + b} {thing} and gives {b} of them to {other}. How many {thing} are left?",
             f"{a + b} - {b} = {a}", a),
        )  # fmt: skip
        text, working, answer = rng.choice(problems)
        if split_of(text) == split:
            return f"{text} {_BOXED}", working, answer


def _order(rng: Random) -> tuple[str, str]:
    """Draw an instruction and the only answer that follows it."""
    words = rng.sample(WORDS, 3)
    return rng.choice(
        (
            (f"Answer with the word {words[0]} and nothing else.", words[0]),
            (f"Write the word {words[0]} in upper case and nothing else.", words[0].upper()),
            (f"Repeat these words exactly, and nothing else: {' '.join(words)}", " ".join(words)),
        )
    )


def _distinct(draw: Any, count: int) -> list[Any]:
    found: dict[Any, None] = {}
    while len(found) < count:
        found.setdefault(draw())
    return list(found)


def _asked(text: str, **fields: Any) -> Row:
    return {"messages": [{"role": "user", "content": text}], **fields}


def _answered(text: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


def _worked(text: str, working: str, answer: int) -> Row:
    return _answered(text, f"<think>\n{working}\n</think>\n\\boxed{{{answer}}}")
