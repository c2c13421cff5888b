"""Write a folder of prepared data once: complete or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from nemo_cascade.errors import DataError

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
    with _building(final) as building:
        write(building)
        (building / MARK).write_text(mark, encoding="utf-8")
        if final.exists():
            final.rename(building / ".replaced")
        building.rename(final)
        shutil.rmtree(final / ".replaced", ignore_errors=True)


def make_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whose name says what it holds, unless it is there.

    Args:
        final: where it belongs; its name is a hash of everything that its content depends on.
        write: fills the folder it is given.
    """
    if final.is_dir():
        return
    with _building(final) as building:
        write(building)
        try:
            building.rename(final)
        except OSError:
            # Another process made the same at the same time: by its name it holds the same bytes.
            if not final.is_dir():
                raise


def seal(folder: Path) -> None:
    """Write the hash of every file of a folder beside them."""
    hashes = {file.name: hash_file(file) for file in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Prove that a sealed folder holds what was written.

    Raises:
        DataError: names the first file that doesn't.
    """
    try:
        hashes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder / SEAL, error) from error
    for name, expected in hashes.items():
        found = hash_file(folder / name) if (folder / name).is_file() else None
        if found != expected:
            raise _damaged(folder / name, found)


def hash_file(file: Path) -> str:
    """Hash a file's bytes (BLAKE3)."""
    return blake3().update_mmap(file).hexdigest()


def _damaged(file: Path, found: Any) -> DataError:
    return DataError(f"damaged data: {file}", value=found, mend=f"remove {file.parent}; it is made again")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; what others are writing stays."""
    for path in folder.glob(".*-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # somebody writes in it, or this file system has no locks
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_row_sets(folder: Path, sets: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write each set's rows into a file of its name."""
    for name, rows in sets.items():
        write_rows(folder / f"{name}.jsonl", rows)


@contextlib.contextmanager
def _building(final: Path) -> Iterator[Path]:
    """Give a folder to write in, beside the final one and on the same disk, locked while this process lives."""
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = None
    while lock is None:
        building = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        lock = _locked(building)
    building.chmod(0o755)  # mkdtemp closes it to others; ranks may run as another user
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(lock)


def _locked(building: Path) -> int | None:
    """Lock a new folder; None if it was taken for a leftover and removed before that."""
    try:
        lock = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    # On a file system without locks nobody else gets one either, so nobody takes it for a leftover.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    if building.exists():
        return lock
    os.close(lock)
    return None
