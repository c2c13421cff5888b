"""Write a file so that a reader, a crash or a full disk sees the old content or the new, never a part."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place in one step, its folder made if need be; on return it is on disk under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    flush(path.parent)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a value as JSON, atomically; floats read back to the same bits.

    Raises:
        ValueError: it holds a NaN or an infinity, which JSON has no word for.
    """
    write_atomically(path, (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode())


def flush(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
