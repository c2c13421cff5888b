"""Write a folder of prepared data once: complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import DataError
from nemo_cascade.storage.manifest import describe, find_fault
from nemo_cascade.storage.publish import publishing

MARK, SEAL = "prepared.json", "hashes.json"


def write_once(folder: str | Path, recipe: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Fill a folder unless it was already filled by the same recipe; what an older recipe left there is replaced.

    Args:
        folder: where the data belongs.
        recipe: everything that the data depends on.
        write: fills the folder it is given.
    """
    final, mark = Path(folder), json.dumps(recipe, sort_keys=True) + "\n"
    if (final / MARK).is_file() and (final / MARK).read_text(encoding="utf-8") == mark:
        return
    with publishing(final) as building:
        write(building)
        (building / MARK).write_text(mark, encoding="utf-8")


def make_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whose name says what it holds, unless it is there.

    Args:
        final: where it belongs; its name is a hash of everything that its content depends on.
        write: fills the folder it is given.
    """
    if final.is_dir():
        return
    with publishing(final, keep=True) as building:
        write(building)


def seal(folder: Path) -> None:
    """Write size and hash of every file of a folder beside them."""
    (folder / SEAL).write_text(json.dumps(describe(folder), indent=1) + "\n", encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Prove that a sealed folder holds what was written.

    Raises:
        DataError: names the first file that doesn't.
    """
    fault = find_fault(folder, read_json_object(folder / SEAL, DataError))
    if fault is not None:
        mend = f"remove {folder}; it is made again"
        raise DataError(f"damaged data: {folder / fault.name}", value=fault.found, limit=fault.expected, mend=mend)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_row_sets(folder: Path, sets: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write each set's rows into a file of its name."""
    for name, rows in sets.items():
        write_rows(folder / f"{name}.jsonl", rows)
