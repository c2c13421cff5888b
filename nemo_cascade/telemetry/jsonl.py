"""Append-only files of JSON lines: durable appends, a torn last line forgiven, damage elsewhere refused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RunFolderError

_log = logging.getLogger(__name__)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record in a single write and flush it to disk."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


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


def replace_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all records to a new file and put it in place of the old one in one step."""
    lines = [json.dumps(r, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for r in records]
    write_atomically(path, "".join(lines).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
