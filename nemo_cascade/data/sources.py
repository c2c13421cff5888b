"""Read rows of JSONL, parquet and arrow files, one at a time, each with the file and line it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from nemo_cascade.data.columns import OWN_ROWS, Schema
from nemo_cascade.errors import DataError

SUFFIXES = (".jsonl", ".parquet", ".arrow")
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it lies in its file.

    Attributes:
        file: path of the file.
        line: line of a JSONL file, row of another, both from 1.
        payload: the undecoded line, or the row.
    """

    file: str
    line: int
    payload: bytes | dict[str, Any]

    @property
    def place(self) -> str:
        """Say where the row is, for people: `file:line`."""
        return f"{self.file}:{self.line}"


@dataclass
class Problems:
    """Everything found wrong in some data: the first of them in words, all of them counted."""

    limit: int = 20
    total: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note a problem."""
        self.total += 1
        if len(self.first) < self.limit:
            self.first.append(problem)

    def merge(self, other: Problems) -> None:
        """Note all problems of another list."""
        self.total += other.total
        self.first += other.first[: self.limit - len(self.first)]

    def refuse(self, what: str, mend: str) -> None:
        """Raise DataError with all that was noted; return if nothing was."""
        if self.total:
            rest = self.total - len(self.first)
            lines = [*self.first, *([f"... and {rest} more"] if rest else [])]
            raise DataError(f"{self.total} {what}:" + "".join(f"\n  {line}" for line in lines) + "\n ", mend=mend)


def refuse_bad_share(what: str, found: Mapping[str, Problems], rows: int, most: float) -> None:
    """Refuse data of whose rows too many can't be trained on.

    Args:
        what: the rows are: samples, pairs.
        found: what is wrong -> the rows of which it is.
        rows: all of them.
        most: share that may be bad.

    Raises:
        DataError: it is larger; counts each kind, and names the first rows.
    """
    worst = Problems()
    for problems in found.values():
        worst.merge(problems)
    if worst.total > most * rows:
        counts = ", ".join(f"{problems.total} {why}" for why, problems in found.items() if problems.total)
        worst.refuse(
            f"of {rows} {what} can't be trained on ({counts}; allowed share {most})",
            "mend the rows, raise seq_length, or raise data.max_bad_fraction",
        )


def data_files(path: str | Path) -> list[Path]:
    """List the data files of a path: itself, or all JSONL, parquet and arrow files below it, sorted.

    Raises:
        DataError: nothing there, no data file in it, or a file of another kind.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            raise DataError("no data file in the folder", value=str(root), limit=" or ".join(SUFFIXES))
        return files
    if not root.is_file():
        raise DataError("no such data file or folder", value=str(root), mend="check the path, or prepare the data")
    if root.suffix not in SUFFIXES:
        raise DataError("unknown kind of data file", value=str(root), limit=" or ".join(SUFFIXES))
    return [root]


def read_raw(path: str | Path, max_rows: int | None = None) -> Iterator[RawRow]:
    """Stream the rows of a file or folder undecoded; blank lines are passed over and don't count."""
    left = max_rows if max_rows is not None else -1
    for file in data_files(path):
        for line, payload in _lines(file) if file.suffix == ".jsonl" else table_rows(file):
            if left == 0:
                return
            left -= 1
            yield RawRow(str(file), line, payload)


def decode_row(raw: RawRow, schema: Schema = OWN_ROWS) -> tuple[dict[str, Any], str | None]:
    """Decode and map a raw row. Returns the row and None, or an empty row and what is wrong with it."""
    row, problem = _decoded(raw)
    return schema.apply(row) if problem is None else (row, problem)


def without_nulls(value: Any) -> Any:
    """Drop the nulls with which arrow fills the fields that a struct lacks, in a row and all that is in it."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def _decoded(raw: RawRow) -> tuple[dict[str, Any], str | None]:
    if isinstance(raw.payload, dict):
        return raw.payload, None
    try:
        row = json.loads(raw.payload)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, f"broken line: {error}"
    if not isinstance(row, dict):
        return {}, f"not an object but {type(row).__name__}"
    return row, None


def hash_files(path: str | Path) -> list[str]:
    """Hash the content of every data file of a path, in order (blake3, 64 hex digits each)."""
    return [blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest() for file in data_files(path)]


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def parquet_facts(file: Path) -> pq.FileMetaData:
    """Read what stands at the end of a parquet file: its columns and row groups."""
    try:
        return pq.read_metadata(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"not parquet, or damaged: {error}", value=str(file)) from error


def table_rows(file: Path, groups: range | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream the rows of a parquet or arrow file, or of some row groups of a parquet file, numbered from 1."""
    number = 0
    try:
        for batch in _batches(file, groups):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield number, without_nulls(row)
    except pa.ArrowInvalid as error:
        raise DataError(f"not {file.suffix[1:]}, or damaged, behind row {number}: {error}", value=str(file)) from error


def _batches(file: Path, groups: range | None) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as table:
            yield from table.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups)
        return
    with pa.memory_map(str(file)) as mapped:
        try:  # `datasets` writes streams, others files
            yield from pa.ipc.open_stream(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
