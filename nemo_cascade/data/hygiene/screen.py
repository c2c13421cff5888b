"""Screen the tokenised samples of a stage by what they say: repeats of each other, and evaluation prompts.

Each shard is screened on its own, in the pool, and the result kept under a hash of all that it depends on: a further
source or another packing reads nothing again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from nemo_cascade.config.stages.sft_data import DedupConfig, SftDataConfig
from nemo_cascade.data.hygiene.decontaminate import NgramIndex, PromptText, prompts_key, read_prompts
from nemo_cascade.data.hygiene.dedup import Said, find_duplicates, fingerprint_key, write_fingerprints
from nemo_cascade.data.hygiene.words import as_asked, conversation_text, exactly_said, questions
from nemo_cascade.data.prepared import check_seal, make_folder, seal
from nemo_cascade.data.rows.sources import Problems, decode_row
from nemo_cascade.data.rows.units import read_unit
from nemo_cascade.data.sft.shards import open_shard
from nemo_cascade.data.sft.tokenised import Part, TokenisedSet, pool_size
from nemo_cascade.processes.parallel import map_processes

SCREENS = "screens"
"""Folder of what was found shard by shard, beside the shards."""
HITS = "hits.npy"
REPORTED_NGRAMS = (9, 13)
"""Lengths of the runs that are always counted: Cascade's filter (arXiv 2512.13607, section 3.2) and GPT-3's."""


@dataclass(frozen=True)
class Screened:
    """What is known of the samples.

    Attributes:
        repeated: [n], an earlier sample says the same.
        contaminated: [n], an evaluation prompt is seen in it.
        report: counts by source, and the first of each kind by place.
    """

    repeated: NDArray[np.bool_]
    contaminated: NDArray[np.bool_]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Work:
    part: Part
    shard: str
    folder: str
    dedup: DedupConfig | None = None
    prompts: tuple[PromptText, ...] = ()
    ngrams: tuple[int, ...] = ()


def screen(tokenised: TokenisedSet, data: SftDataConfig, root: Path) -> Screened:
    """Look for repeats and for evaluation prompts, as far as the rules ask for it.

    Args:
        tokenised: the samples.
        data: `dedup` and `decontaminate`.
        root: folder of what is found.

    Raises:
        DataError: contaminated samples where the rule is to refuse them, named by place; evaluation sets without
            prompts.
    """
    repeated = contaminated = np.zeros(len(tokenised.samples), bool)
    report: dict[str, Any] = {}
    if data.dedup.method != "none":
        repeated, report["dedup"] = _repeats(tokenised, data, root)
    if data.decontaminate.against:
        contaminated, report["decontaminate"] = _contaminated(tokenised, data, root)
    return Screened(repeated, contaminated, report)


def _repeats(tokenised: TokenisedSet, data: SftDataConfig, root: Path) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    config, sources = data.dedup, [s.path for s in data.sources]
    folders = [root / fingerprint_key(config, part.key) for part in tokenised.parts]
    parts = zip(tokenised.parts, tokenised.shards, folders, strict=True)
    _run(_fingerprint, [_Work(p, str(s.folder), str(f), config) for p, s, f in parts], data)
    found = find_duplicates(folders, config)
    # Rows were compared; a row may have become several samples.
    head, row_of = tokenised.first_of_row, tokenised.row_of
    exact, near = (np.where(other >= 0, head[other], -1)[row_of] for other in (found.exact, found.near))
    repeated, first = (exact >= 0) | (near >= 0), []
    for sample in np.flatnonzero(repeated)[: Problems().limit].tolist():
        how, other = ("exactly", exact) if exact[sample] >= 0 else ("nearly", near)
        first.append(f"{tokenised.place(sample)} says {how} what {tokenised.place(int(other[sample]))} does")
    report = {
        "exact": int((exact >= 0).sum()),
        "near": int((near >= 0).sum()),
        "by_source": {
            f"{number} {path}": {
                "samples": int((tokenised.source_of == number).sum()),
                "exact": int((exact[tokenised.source_of == number] >= 0).sum()),
                "near": int((near[tokenised.source_of == number] >= 0).sum()),
            }
            for number, path in enumerate(sources)
        },
        "first": first,
    }
    return repeated, report


def _contaminated(tokenised: TokenisedSet, data: SftDataConfig, root: Path) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    rules = data.decontaminate
    prompts, ngrams = tuple(read_prompts(rules.against)), tuple(sorted({*REPORTED_NGRAMS, rules.ngram}))
    key = prompts_key(prompts, ngrams)
    folders = [root / blake3(f"{key} {part.key}".encode()).hexdigest()[:32] for part in tokenised.parts]
    parts = zip(tokenised.parts, tokenised.shards, folders, strict=True)
    work = [_Work(p, str(s.folder), str(f), prompts=prompts, ngrams=ngrams) for p, s, f in parts]
    _run(_seek, work, data)
    hits = np.concatenate([np.load(folder / HITS) for folder in folders])[tokenised.row_of]
    of_rule = hits[:, ngrams.index(rules.ngram)]
    found = np.flatnonzero(of_rule >= 0)
    problems = Problems(total=len(found))
    for sample in found[: problems.limit].tolist():
        problems.first.append(f"{tokenised.place(sample)} holds {prompts[of_rule[sample]].place}")
    if rules.rule == "refuse":
        mend = "remove them, or set data.decontaminate.rule=drop"
        problems.refuse(f"samples share {rules.ngram} words in a row with an evaluation prompt", mend)
    report = {
        "ngram": rules.ngram,
        "prompts": len(prompts),
        "boilerplate_ngrams": NgramIndex(prompts, rules.ngram).boilerplate,
        **{f"samples_sharing_{n}_words": int((hits[:, i] >= 0).sum()) for i, n in enumerate(ngrams)},
        "by_source": {
            f"{number} {source.path}": int((of_rule[tokenised.source_of == number] >= 0).sum())
            for number, source in enumerate(data.sources)
        },
        "first": problems.first,
    }
    return of_rule >= 0, report


def _run(function: Any, work: Sequence[_Work], data: SftDataConfig) -> None:
    missing = list({w.folder: w for w in work if not Path(w.folder).is_dir()}.values())
    for _ in map_processes(function, missing, pool_size(data.workers, [w.part.unit for w in missing])):
        pass
    for folder in {w.folder for w in work}:
        check_seal(Path(folder))


def _fingerprint(work: _Work) -> None:
    dedup = work.dedup
    assert dedup is not None, "made with it"

    def write(building: Path) -> None:
        write_fingerprints(building, map(_said, _rows(work)), dedup)
        seal(building)

    make_folder(Path(work.folder), write)


def _seek(work: _Work) -> None:
    """Write for each row and each n the number of a prompt that it holds, or -1."""

    def write(building: Path) -> None:
        indexes = [_index(work.prompts, n) for n in work.ngrams]
        hits = []
        for row in _rows(work):
            text, asked = conversation_text(row["messages"]), as_asked(questions(row["messages"]))
            found = (index.match(text, asked) for index in indexes)
            hits.append([-1 if hit is None else hit for hit in found])
        np.save(building / HITS, np.asarray(hits, np.int32).reshape(-1, len(indexes)))
        seal(building)

    make_folder(Path(work.folder), write)


def _said(row: Mapping[str, Any]) -> Said:
    tools = json.dumps(row["tools"], sort_keys=True) if row.get("tools") else ""
    if untrained := [i for i, message in enumerate(row["messages"]) if message.get("trained") is False]:
        tools += f" untrained {untrained}"
    return Said(conversation_text(row["messages"]), tools, exactly_said(row["messages"]))


def _rows(work: _Work) -> Iterator[dict[str, Any]]:
    """Yield the rows that became a shard's samples, each once."""
    lines = set(open_shard(Path(work.shard)).samples()["line"].tolist())
    for raw in read_unit(work.part.unit):
        if raw.line in lines:
            yield decode_row(raw, work.part.schema)[0]


@cache
def _index(prompts: tuple[PromptText, ...], n: int) -> NgramIndex:
    return NgramIndex(prompts, n)
