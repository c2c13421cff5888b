"""Append-only files of JSON lines: durable appends, a torn last line forgiven, damage elsewhere refused."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RunFolderError
from nemo_cascade.storage.atomic import flush, write_atomically

_log = logging.getLogger(__name__)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record in a single write; on return it is on disk."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        flush(path.parent)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, record); a last line that a crash cut short is left out.

    Raises:
        RunFolderError: a line before the last isn't a JSON object.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _parse(line)
            if record is not None:
                yield number, record
            elif line.endswith(b"\n"):
                raise RunFolderError(
                    f"line {number} of {path} isn't a JSON object",
                    value=line[:80].decode(errors="replace"),
                    mend="restore the file; only its last line may be incomplete",
                )


def repair_tail(path: Path) -> bool:
    """Make the file end in a complete line, so that the next append starts a new one.

    A last line without line feed is completed if it parses (only the line feed was lost) and cut off otherwise.

    Returns:
        Whether anything was cut off.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return False
    start = content.rfind(b"\n") + 1
    if _parse(content[start:]) is not None:
        with path.open("ab") as file:
            file.write(b"\n")
        return False
    _log.warning("%s: dropped an incomplete last line of %d bytes", path, len(content) - start)
    os.truncate(path, start)
    return True


def replace_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write all records to a new file and put it in place of the old one in one step."""
    write_atomically(path, b"".join(map(_line, records)))


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
