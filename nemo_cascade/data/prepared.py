"""Write a folder of prepared data once: complete or not at all."""

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
    prove_files(folder, _read(folder / SEAL, "data"), "data")


def read_described(folder: Path, name: str, what: str, *, sizes_only: bool = False) -> dict[str, Any]:
    """Read the JSON file that lists a folder's files under `files`, and hold them against it.

    Args:
        folder: prepared data.
        name: the JSON file.
        what: the data are, for the error.
        sizes_only: look at sizes alone.

    Raises:
        DataError: it can't be read, or names the first file that isn't what was written.
    """
    facts = _read(folder / name, what)
    prove_files(folder, facts.get("files"), what, sizes_only=sizes_only)
    return facts


def prove_files(folder: Path, manifest: object, what: str, *, sizes_only: bool = False) -> None:
    """Hold a folder's files against their manifest.

    Raises:
        DataError: names the first file that isn't what was written.
    """
    if fault := find_fault(folder, manifest, sizes_only=sizes_only):
        raise _damaged(what, folder / fault.name, fault.found, fault.expected, folder)


def _read(file: Path, what: str) -> dict[str, Any]:
    try:
        return read_json_object(file, DataError)
    except DataError as error:
        raise _damaged(what, file, error.what, "JSON", file.parent) from error


def _damaged(what: str, file: Path, found: str, expected: str, folder: Path) -> DataError:
    mend = f"remove {folder}; it is made again"
    return DataError(f"damaged {what}: {file}", value=found, limit=expected, mend=mend)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_row_sets(folder: Path, sets: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write each set's rows into a file of its name."""
    for name, rows in sets.items():
        write_rows(folder / f"{name}.jsonl", rows)
