"""Cut source files into units of work: what one process reads, tokenises and writes as one shard.

The cuts depend on the file alone, so a file that grew at its end keeps all its units but the last.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from blake3 import blake3

from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.sources import read_raw
from nemo_cascade.data.rows.tables import parquet_facts, table_rows

UNIT_BYTES = 64 << 20
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of a source file that ends where a row ends.

    Attributes:
        file: path of the file.
        begin: first byte.
        end: byte behind the last.
        groups: the row groups of a parquet file that lie there.
        rows_before: rows of a parquet file in front of them.
        max_rows: read no more rows than this (files that can't be cut at a byte).
    """

    file: str
    begin: int
    end: int
    groups: range | None = None
    rows_before: int = 0
    max_rows: int | None = None


@dataclass(frozen=True, slots=True)
class UnitContent:
    """What is known of a unit's bytes.

    Attributes:
        key: hash of everything that its rows depend on.
        lines: line ends in it.
    """

    key: str
    lines: int


def plan_units(path: str | Path, max_rows: int | None = None, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """Cut a file or folder into units, in order.

    Args:
        path: a data file, or a folder of them.
        max_rows: use only the first so many rows.
        unit_bytes: about how large a unit is; a row group of a parquet file, and an arrow file, isn't cut.
    """
    units: list[Unit] = []
    for file in data_files(path):
        if max_rows == 0:
            break
        size, taken = file.stat().st_size, None
        if file.suffix == ".parquet":
            made, taken = _group_units(file, max_rows, unit_bytes)
            units += made
        elif file.suffix != ".jsonl":
            if max_rows is not None:
                taken = sum(1 for _ in read_raw(file, max_rows))
            units.append(Unit(str(file), 0, size, max_rows=taken))
        else:
            if max_rows is not None:
                size, taken = _end_of_rows(file, max_rows)
            cuts = [0, *_line_starts(file, size, unit_bytes), size]
            units += [Unit(str(file), begin, end) for begin, end in itertools.pairwise(cuts)]
        if max_rows is not None and taken is not None:
            max_rows -= taken
    return units


def read_unit(unit: Unit) -> Iterator[RawRow]:
    """Stream a unit's rows; lines are counted from 1 at the unit's begin. Blank lines are passed over."""
    if not unit.file.endswith(".jsonl"):
        yield from itertools.islice(table_rows(Path(unit.file), unit.groups), unit.max_rows)
        return
    with open(unit.file, "rb") as stream:
        stream.seek(unit.begin)
        left = unit.end - unit.begin
        for number, line in enumerate(stream, 1):
            if left <= 0:
                return
            left -= len(line)
            if line.strip():
                yield RawRow(unit.file, number, line, len(line))


def unit_content(unit: Unit) -> UnitContent:
    """Hash what a unit holds, reading it in small pieces."""
    hasher, lines, left = blake3(), 0, unit.end - unit.begin
    with open(unit.file, "rb") as stream:
        stream.seek(unit.begin)
        while left > 0 and (piece := stream.read(min(left, _READ_BYTES))):
            left -= len(piece)
            hasher.update(piece)
            lines += piece.count(b"\n")
    hasher.update(f"{Path(unit.file).suffix} {unit.max_rows}".encode())
    if unit.groups is not None:  # what the bytes mean stands at the file's end
        facts = parquet_facts(Path(unit.file))
        groups = [facts.row_group(g) for g in unit.groups]
        columns = [g.column(c) for g in groups for c in range(g.num_columns)]
        # Without the columns' least and greatest values, which may be no text.
        hasher.update(str([(g.num_rows, g.total_byte_size) for g in groups]).encode())
        hasher.update(str([(c.path_in_schema, c.num_values, c.compression, c.encodings) for c in columns]).encode())
        hasher.update(facts.schema.to_arrow_schema().serialize())
    return UnitContent(hasher.hexdigest(), lines)


def _group_units(file: Path, max_rows: int | None, unit_bytes: int) -> tuple[list[Unit], int]:
    """Cut a parquet file into units of whole row groups. Returns them and the rows that they read."""
    facts = parquet_facts(file)
    if not facts.num_row_groups:  # nothing is read, as of an empty file of lines
        return [Unit(str(file), 0, 0, range(0))], 0
    units: list[Unit] = []
    rows, first, before, size = 0, 0, 0, 0
    for number in range(facts.num_row_groups):
        group = facts.row_group(number)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        last = number + 1 == facts.num_row_groups or (max_rows is not None and rows >= max_rows)
        if not (last or size >= unit_bytes):
            continue
        groups = range(first, number + 1)
        most = max_rows - before if max_rows is not None and rows > max_rows else None
        units.append(Unit(str(file), *_stretch(facts, groups), groups, before, most))
        first, before, size = number + 1, rows, 0
        if last:
            break
    return units, rows if max_rows is None else min(rows, max_rows)


def _stretch(facts: pq.FileMetaData, groups: range) -> tuple[int, int]:
    """Return the first byte of some row groups, and the one behind their last."""
    columns = [facts.row_group(g).column(c) for g in groups for c in range(facts.num_columns)]
    begins = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    ends = (begin + c.total_compressed_size for begin, c in zip(begins, columns, strict=True))
    return min(begins, default=0), max(ends, default=0)


def _line_starts(file: Path, size: int, unit_bytes: int) -> list[int]:
    """Return where the first line at or behind each multiple of unit_bytes begins."""
    starts = set()
    with file.open("rb") as stream:
        for about in range(unit_bytes, size, unit_bytes):
            stream.seek(about - 1)
            stream.readline()
            starts.add(stream.tell())
    return sorted(s for s in starts if s < size)


def _end_of_rows(file: Path, max_rows: int) -> tuple[int, int]:
    """Return the byte behind the first max_rows rows, and how many there are."""
    end, rows = 0, 0
    with file.open("rb") as stream:
        for line in stream:
            end += len(line)
            rows += bool(line.strip())
            if rows == max_rows:
                break
    return end, rows
