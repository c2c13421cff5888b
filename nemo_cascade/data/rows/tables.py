"""Read rows of parquet and arrow files, a few at a time by their size, with all that can be wrong with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_cascade.data.rows.json_text import read_json
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.errors import DataError

_BATCH_ROWS, _BATCH_BYTES = 256, 4 << 20
# What a damaged page, a truncated file or bytes that are no text raise; an arrow error of input and output is OSError.
_DAMAGES = (pa.ArrowException, OSError, ValueError)


def parquet_facts(file: Path) -> pq.FileMetaData:
    """Read what stands at the end of a parquet file: its columns and row groups.

    Raises:
        DataError: it can't be read.
    """
    try:
        return pq.read_metadata(file)
    except _DAMAGES as error:
        raise _unreadable(file, 0, error) from error


def table_rows(file: Path, groups: range | None = None) -> Iterator[RawRow]:
    """Stream the rows of a parquet or arrow file, or of some row groups of a parquet file, numbered from 1.

    Raises:
        DataError: the file is damaged; says behind which row. A single row that can't be read is a row with a problem.
    """
    number = 0
    try:
        for batch in _batches(file, groups):
            _refuse_wild(batch)
            size = batch.nbytes // max(1, batch.num_rows)
            step = _rows_at_once(size)
            for start in range(0, batch.num_rows, step):
                for row, problem in _rows(batch.slice(start, step)):
                    number += 1
                    yield RawRow(str(file), number, row, size, problem)
    except _DAMAGES as error:
        raise _unreadable(file, number, error) from error


def without_nulls(value: Any) -> Any:
    """Drop the nulls with which arrow fills the fields that a struct lacks, in a row and all that is in it."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def _unreadable(file: Path, row: int, error: Exception) -> DataError:
    return DataError(
        f"not {file.suffix[1:]}, or damaged, behind row {row}: {error}",
        value=str(file),
        mend="write the file again; it is cut or damaged",
    )


def _rows_at_once(row_bytes: int) -> int:
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (row_bytes + 1)))


def _batches(file: Path, groups: range | None) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as table:
            facts = table.metadata
            read = range(facts.num_row_groups) if groups is None else groups
            rows, size = (sum(getattr(facts.row_group(g), n) for g in read) for n in ("num_rows", "total_byte_size"))
            yield from table.iter_batches(_rows_at_once(size // max(1, rows)), row_groups=list(read))
        return
    with pa.memory_map(str(file)) as mapped:
        try:  # `datasets` writes streams, others files
            yield from pa.ipc.open_stream(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _refuse_wild(batch: pa.RecordBatch) -> None:
    """Refuse a batch whose offsets lead elsewhere, which would be read out of bounds, or with two columns of a name."""
    if twice := {name for name in batch.schema.names if batch.schema.names.count(name) > 1}:
        raise pa.ArrowInvalid(f"several columns are named {', '.join(sorted(twice))}")
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # of which only the rows that hold it are bad
                raise


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield rows without problems, or nothing and what is wrong with it."""
    json_columns = {f.name: f.type for f in batch.schema if _holds_json(f.type)}
    try:
        yield from ((row, None) for row in [_row(row, json_columns) for row in batch.to_pylist()])
        return
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            yield {}, f"a row that can't be read: {error}"
            return
    for i in range(batch.num_rows):
        yield from _rows(batch.slice(i, 1))


def _row(row: dict[str, Any], json_columns: dict[str, Any]) -> dict[str, Any]:
    plain = {k: without_nulls(v) for k, v in row.items() if v is not None and k not in json_columns}
    return plain | {k: _with_json(row[k], kind) for k, kind in json_columns.items() if row[k] is not None}


def _holds_json(kind: Any) -> bool:
    """Tell whether a type is JSON (what `datasets` writes for values of any shape), or has it inside."""
    return isinstance(kind, pa.JsonType) or any(_holds_json(kind.field(i).type) for i in range(kind.num_fields))


def _with_json(value: Any, kind: Any) -> Any:
    """Parse the JSON in a value, which arrow gives as its text."""
    if isinstance(kind, pa.JsonType):
        return read_json(value, nan=True)
    if not _holds_json(kind):
        return without_nulls(value)
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {f.name: _with_json(value[f.name], f.type) for f in fields if value[f.name] is not None}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [None if v is None else _with_json(v, kind.value_type) for v in value]
    raise ValueError(f"JSON inside {kind}")
