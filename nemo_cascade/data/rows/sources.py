"""Read rows of JSONL, parquet and arrow files, one at a time, each with the file and line it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_cascade.data.chat.conversation import read_row
from nemo_cascade.data.rows.columns import OWN_ROWS, Schema
from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.json_text import read_json
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.tables import table_rows
from nemo_cascade.errors import DataError


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


def read_raw(path: str | Path, max_rows: int | None = None) -> Iterator[RawRow]:
    """Stream the rows of a file or folder undecoded; blank lines are passed over and don't count."""
    left = max_rows if max_rows is not None else -1
    for file in data_files(path):
        for raw in _lines(file) if file.suffix == ".jsonl" else table_rows(file):
            if left == 0:
                return
            left -= 1
            yield raw


def decode_row(raw: RawRow, schema: Schema = OWN_ROWS) -> tuple[dict[str, Any], str | None]:
    """Decode and map a raw row, and read its conversation (`data.conversation`).

    Returns:
        The row and None, or an empty row and what is wrong with it.
    """
    row, problem = mapped_row(raw, schema)
    return read_row(row, schema.columns_read) if problem is None else ({}, problem)


def mapped_row(raw: RawRow, schema: Schema = OWN_ROWS) -> tuple[dict[str, Any], str | None]:
    """Decode and map a raw row, whose conversation stays as it is: enough to know what it asks. As `decode_row`."""
    row, problem = _decoded(raw)
    return schema.apply(row) if problem is None else ({}, problem)


def _decoded(raw: RawRow) -> tuple[dict[str, Any], str | None]:
    if isinstance(raw.payload, dict):
        return raw.payload, raw.problem
    try:
        row = read_json(raw.payload, nan=True)
    except ValueError as error:
        return {}, f"broken line: {error}"
    if not isinstance(row, dict):
        return {}, f"not an object but {type(row).__name__}"
    return row, None


def _lines(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield RawRow(str(file), number, line, len(line))
