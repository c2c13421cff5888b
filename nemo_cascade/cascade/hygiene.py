"""Prompts of SFT and of RL are disjoint, and both from the evaluation's: proven before the first step, or refused.

    RL stage's prompts          in SFT stages'                      at most max_rl_in_sft
    evaluation suite's prompts  in SFT, reward model, RL stages'    at most max_evaluation_in_training

(arXiv 2512.13607, section 4: SFT and RL share no prompt; section 3.2: decontamination by 9-grams.)

The result is kept under a hash of all files and rules, so that a resumed run doesn't read them again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.data.hygiene.exclusions import Found, Overlap, PromptRows, Search, find_prompts
from nemo_cascade.data.hygiene.prompt_index import LIMITS
from nemo_cascade.data.hygiene.words import WORDS_VERSION
from nemo_cascade.data.rows.files import data_files, hash_files
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.errors import DataError
from nemo_cascade.storage.atomic import write_json
from nemo_cascade.storage.hashes import hash_json

_EXAMPLES = 20
# Raised with every change of what is found.
_VERSION = 3

Sets = dict[PromptRows, list[str]]
"""Rows -> the keys of the configuration that name them."""


@dataclass(frozen=True, slots=True)
class _Pair:
    prompts: PromptRows
    within: PromptRows
    prompts_of: list[str]
    found_in: list[str]
    limit: float


def check_hygiene(config: RunConfig) -> dict[str, Any] | None:
    """Look for shared prompts in all pairs of sets that must be disjoint.

    Returns:
        The report: rules, content hashes of all files, and for every pair its counts and first examples; None where
        the check is off.

    Raises:
        DataError: a pair shares more than its limit; names file and line on both sides, of all such pairs.
    """
    if not config.hygiene.enabled:
        return None
    pairs, rules = _pairs(config), {**asdict(config.hygiene), **LIMITS}
    files = {path for pair in pairs for rows in (pair.prompts, pair.within) for path in (rows.path, *rows.screened)}
    compared = {
        "version": [_VERSION, WORDS_VERSION],
        "rules": rules,
        "files": {path: hash_files(path) for path in sorted(files)},
        "pairs": [[asdict(pair.prompts), asdict(pair.within)] for pair in pairs],
    }
    kept = Path(config.data_dir) / "hygiene" / f"{hash_json(compared)[:32]}.json"
    if not kept.is_file():
        measured = _measure(pairs, config.hygiene)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, measured)
    report = [
        {"prompts_of": pair.prompts_of, "found_in": pair.found_in, "limit": pair.limit, **counts}
        for pair, counts in zip(pairs, json.loads(kept.read_text(encoding="utf-8")), strict=True)
    ]
    _refuse(report)
    return {"rules": rules, "files": compared["files"], "pairs": report}


def _pairs(config: RunConfig) -> list[_Pair]:
    """Return what must be disjoint."""
    sft, reward_model, rl, suites = _sets(config)
    trained, rules = sft | reward_model | rl, config.hygiene
    pairs = [_Pair(p, r, rl[p], sft[r], rules.max_rl_in_sft) for p in rl for r in sft]
    most = rules.max_evaluation_in_training
    return pairs + [_Pair(p, r, suites[p], trained[r], most) for p in suites for r in trained]


def _sets(config: RunConfig) -> tuple[Sets, Sets, Sets, Sets]:
    """Return the prompt sets of SFT, reward model, RL and evaluation; a set that several stages read is one."""
    sft: Sets = {}
    reward_model: Sets = {}
    rl: Sets = {}
    suites: Sets = {}
    by_role = {"sft": sft, "pairs": reward_model, "prompts": rl}
    for name, stage in config.stages.items():
        for use in stage.reads():
            if use.role in by_role:
                screened = tuple(str(f) for path in use.screened for f in data_files(path))
                rows = _rows(use.source, config.data_dir, screened, use.screen_ngram if screened else 0)
                by_role[use.role].setdefault(rows, []).append(f"stages.{name}.{use.key}")
    for name, suite in config.evaluation.suites.items():
        suites.setdefault(_rows(suite, config.data_dir), []).append(f"evaluation.suites.{name}")
    return sft, reward_model, rl, suites


def _rows(source: DataFileConfig, data_dir: str, screened: tuple[str, ...] = (), ngram: int = 0) -> PromptRows:
    columns = tuple(sorted(source.columns.items()))
    return PromptRows(local_path(source, data_dir), source.schema, columns, screened, ngram)


def _measure(pairs: Sequence[_Pair], rules: HygieneConfig) -> list[dict[str, Any]]:
    """Look for the prompts of all pairs, reading each set that is searched through once."""
    within: dict[PromptRows, list[PromptRows]] = {}
    for pair in pairs:
        within.setdefault(pair.within, []).append(pair.prompts)
    found = find_prompts([Search(tuple(prompts), rows) for rows, prompts in within.items()], rules)
    overlaps = {
        (prompts, rows): overlap
        for (rows, searched_for), overlaps in zip(within.items(), found, strict=True)
        for prompts, overlap in zip(searched_for, overlaps, strict=True)
    }
    return [_counts(overlaps[pair.prompts, pair.within]) for pair in pairs]


def _counts(overlap: Overlap) -> dict[str, Any]:
    found = overlap.found
    return {
        "prompts": overlap.prompts,
        "exact_only": overlap.exact_only,
        "prompts_found": len({hit.prompt for hit in found}),
        "rows_found": {how: sum(hit.how == how for hit in found) for how in ("exact", "near", "ngram")},
        "first": [asdict(hit) for hit in found[:_EXAMPLES]],
    }


def _refuse(pairs: list[dict[str, Any]]) -> None:
    refused = []
    for pair in pairs:
        count, total = pair["prompts_found"], pair["prompts"]
        if count > pair["limit"] * total:
            lines = [_line(Found(**hit)) for hit in pair["first"]]
            more = sum(pair["rows_found"].values()) - len(lines)
            lines += [f"... and {more} more rows"] if more else []
            head = f"{count} of {total} prompts of {', '.join(pair['prompts_of'])}, allowed {pair['limit']:g} of them,"
            refused.append(f"{head} are in {', '.join(pair['found_in'])}:" + "".join(f"\n    {line}" for line in lines))
    if refused:
        raise DataError(
            "prompt sets overlap that must be disjoint:" + "".join(f"\n  {text}" for text in refused) + "\n ",
            mend="remove the rows from the set that is trained on; or raise hygiene.max_rl_in_sft or "
            "hygiene.max_evaluation_in_training",
        )


def _line(hit: Found) -> str:
    how = {"exact": "is exactly", "near": "is nearly", "ngram": "shares a run of words with"}[hit.how]
    return f"{hit.where} {how} {hit.prompt}"
