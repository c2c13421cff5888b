"""The tokenised set of a stage's sources: shards made by a pool of processes, each once and for all.

Which shards there are and what is in them depends on the sources' bytes, the tokenizer and the template, never on the
number of processes or on how often the work was interrupted: a shard that is there is complete, one that isn't is made.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.logging import LoggingConfig
from nemo_cascade.config.stages.sft_data import SourceConfig, ThoughtsConfig
from nemo_cascade.data.chat.encode import ChatTokenizer, load_tokenizer
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.rows.columns import Schema
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.units import Unit, plan_units, read_unit, unit_content
from nemo_cascade.data.sft.shards import FORMAT_VERSION, SAMPLE, open_shard, write_shard
from nemo_cascade.data.sft.tokenise import tokenised
from nemo_cascade.processes.parallel import available_cores, map_processes
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.types import Int64

SHARDS = "tokens"
"""Folder of all shards, beside the packed stores that refer to them."""
_MIB_PER_PROCESS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A shard and where its rows come from.

    Attributes:
        key: the shard's name.
        unit: the stretch of a file that it was made of.
        source: number of the source.
        first_line: line of the file at which the unit begins, from 1.
        schema: how its rows are mapped.
        thoughts: what becomes of its replies' thoughts.
    """

    key: str
    unit: Unit
    source: int
    first_line: int
    schema: Schema
    thoughts: ThoughtsConfig


@dataclass(frozen=True, slots=True)
class _Work:
    unit: Unit
    folder: str
    schema: Schema
    thoughts: ThoughtsConfig
    tokenizer: str
    fingerprint: str


def plan_parts(sources: Sequence[SourceConfig], tokenizer: ChatTokenizer) -> list[Part]:
    """Cut the sources into units and name the shard of each, in order of the sources and their rows."""
    units = [(number, unit) for number, s in enumerate(sources) for unit in plan_units(s.path, s.max_samples)]
    schemas = [schema_of(s.schema, s.columns) for s in sources]
    # Hashing and reading let go of the interpreter's lock.
    with ThreadPoolExecutor(available_cores()) as threads:
        contents = list(threads.map(unit_content, (unit for _, unit in units)))
    parts, line, file = [], 1, ""
    for (source, unit), content in zip(units, contents, strict=True):
        thoughts = sources[source].thoughts
        line = line if unit.file == file and unit.begin > 0 and unit.groups is None else unit.rows_before + 1
        recipe = {
            "format": FORMAT_VERSION,
            "template": tokenizer.template.key,
            "tokenizer": tokenizer.fingerprint,
            "unit": content.key,
            "schema": schemas[source].key,
            **({} if thoughts.handling == "keep" else {"thoughts": asdict(thoughts)}),  # type: ignore[call-overload]
        }
        key = hash_recipe(recipe)[:32]
        parts.append(Part(key, unit, source, line, schemas[source], thoughts))
        line, file = line + content.lines, unit.file
    return parts


def make_shards(
    parts: Sequence[Part], tokenizer: ChatTokenizer, root: Path, workers: int, logging_config: LoggingConfig
) -> None:
    """Tokenise the units whose shard isn't there yet."""
    missing = {p.key: p for p in parts if not (root / p.key).is_dir()}
    if not missing:
        return
    work = [
        _Work(part.unit, str(root / key), part.schema, part.thoughts, tokenizer.folder, tokenizer.fingerprint)
        for key, part in missing.items()
    ]
    total = sum(_mib(p.unit) for p in parts)
    left = sum(_mib(w.unit) for w in work)
    tokens, begin = 0, time.monotonic()
    with Progress("tokenise, MiB", total, total - left, logging_config) as progress:
        for mib, made in map_processes(_make, work, pool_size(workers, [w.unit for w in work])):
            tokens += made
            progress.advance(f"{tokens / (time.monotonic() - begin):,.0f} tokens/s", mib)


def pool_size(workers: int, units: Sequence[Unit]) -> int:
    """Return how many processes to take: as many as asked for, or for 0 as many as it pays to start."""
    # A process takes about two seconds to start: none for a little data.
    return workers or min(available_cores(), 1 + sum(_mib(u) for u in units) // _MIB_PER_PROCESS)


class TokenisedSet:
    """All samples of the sources, described by a few numbers each; their tokens stay on disk.

    Attributes:
        parts: where they come from.
        shards: one for each part.
        samples: [n] of shards.SAMPLE, in order of the sources and their rows.
        part_of: [n], number of each sample's part.
    """

    def __init__(self, parts: Sequence[Part], root: Path) -> None:
        opened = {key: open_shard(root / key) for key in dict.fromkeys(p.key for p in parts)}
        self.parts, self.shards = list(parts), [opened[p.key] for p in parts]
        tables = [shard.samples() for shard in self.shards]
        self.samples: NDArray[Any] = np.concatenate([np.empty(0, SAMPLE), *tables])
        self.part_of: Int64 = np.repeat(np.arange(len(tables)), [len(t) for t in tables])

    @property
    def source_of(self) -> Int64:
        """[n], number of each sample's source."""
        return np.asarray([p.source for p in self.parts], np.int64)[self.part_of]

    @property
    def first_of_row(self) -> Int64:
        """[rows], the first sample of each row that became one or more."""
        if not len(self.samples):
            return np.empty(0, np.int64)
        begins = (np.diff(self.part_of) != 0) | (np.diff(self.samples["line"]) != 0)
        return np.flatnonzero(np.concatenate([[True], begins]))

    @property
    def row_of(self) -> Int64:
        """[n], number of each sample's row among those."""
        return np.searchsorted(self.first_of_row, np.arange(len(self.samples)), side="right") - 1

    @property
    def rows(self) -> int:
        """Rows read, good and bad."""
        return sum(int(s.facts["rows"]) for s in self.shards)

    def place(self, sample: int) -> str:
        """Say where a sample's row is, for people: `file:line`."""
        return ":".join(map(str, self.origin(sample)))

    def all_bad_rows(self) -> Iterator[tuple[str, int, str, str]]:
        """Yield file, line, kind (broken | untrainable) and reason of every row that is no sample."""
        for part, shard in zip(self.parts, self.shards, strict=True):
            for row in shard.bad_rows():
                yield part.unit.file, part.first_line + row["line"] - 1, row["kind"], row["reason"]

    def origin(self, sample: int) -> tuple[str, int]:
        """Return file and line of a sample's row."""
        part = self.parts[self.part_of[sample]]
        return part.unit.file, part.first_line + int(self.samples[sample]["line"]) - 1

    def bad_rows(self, kind: str, limit: int) -> tuple[int, list[str]]:
        """Count the rows of a kind (broken | untrainable) that are no samples, and name the first of them."""
        named: list[str] = []
        for part, shard in zip(self.parts, self.shards, strict=True):
            if shard.facts["bad"][kind] and len(named) < limit:
                rows = (r for r in shard.bad_rows() if r["kind"] == kind)
                named += [f"{_place(part, r['line'])}: {r['reason']}" for r in rows][: limit - len(named)]
        return sum(int(s.facts["bad"][kind]) for s in self.shards), named


def _place(part: Part, line: int) -> str:
    return f"{part.unit.file}:{part.first_line + line - 1}"


def _make(work: _Work) -> tuple[int, int]:
    """Make one shard. Returns the MiB read and the tokens written."""
    tokenizer = _tokenizer(work.tokenizer, work.fingerprint)
    final = Path(work.folder)
    make_folder(
        final,
        lambda building: write_shard(building, tokenised(read_unit(work.unit), tokenizer, work.schema, work.thoughts)),
    )
    return _mib(work.unit), int(open_shard(final).facts["tokens"])


@cache
def _tokenizer(folder: str, fingerprint: str) -> ChatTokenizer:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.fingerprint == fingerprint, f"{folder} changed while it was in use"
    return tokenizer


def _mib(unit: Unit) -> int:
    return -(-(unit.end - unit.begin) >> 20)
