"""Cut source files into units of work: what one process reads, tokenises and writes as one shard.

The cuts depend on the file alone, so a file that grew at its end keeps all its units but the last.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from nemo_cascade.data.sources import RawRow, data_files, read_raw

UNIT_BYTES = 64 << 20
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of a source file that ends where a row ends.

    Attributes:
        file: path of the file.
        begin: first byte.
        end: byte behind the last.
        max_rows: read no more rows than this (files that can't be cut at a byte).
    """

    file: str
    begin: int
    end: int
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
        unit_bytes: about how large a unit is; other files than JSONL are one unit each.
    """
    units: list[Unit] = []
    for file in data_files(path):
        if max_rows == 0:
            break
        size, taken = file.stat().st_size, None
        if file.suffix != ".jsonl":
            if max_rows is not None:
                taken = sum(1 for _ in read_raw(file, max_rows))
            units.append(Unit(str(file), 0, size, taken))
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
        yield from read_raw(unit.file, unit.max_rows)
        return
    with open(unit.file, "rb") as stream:
        stream.seek(unit.begin)
        left = unit.end - unit.begin
        for number, line in enumerate(stream, 1):
            if left <= 0:
                return
            left -= len(line)
            if line.strip():
                yield RawRow(unit.file, number, line)


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
    return UnitContent(hasher.hexdigest(), lines)


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
