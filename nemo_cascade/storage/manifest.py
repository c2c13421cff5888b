"""Manifests: the size and hash of every file of a folder, and whether they still hold.

A manifest is a part of some JSON file of the folder, {name: {"bytes": size, "blake3": hash}}; the name is relative and
may lead into folders below. Older data have the hash alone instead of the pair.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.storage.hashes import files_below, hash_file


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that isn't what its manifest says.

    Attributes:
        name: as in the manifest.
        found: its size or hash, in words; or that it is missing.
        expected: the same of what was written.
    """

    name: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}, written were {self.expected}"


def describe(folder: Path, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the manifest of some files of a folder; of all below it where none are named."""
    named = [path.relative_to(folder).as_posix() for path in files_below(folder)] if names is None else names
    return {name: {"bytes": (folder / name).stat().st_size, "blake3": hash_file(folder / name)} for name in named}


def find_fault(folder: Path, manifest: object, *, sizes_only: bool = False) -> Fault | None:
    """Return the first file that is missing or isn't as written; None if all are.

    Args:
        folder: where they lie.
        manifest: from `describe`; what is read from a file may be anything, and is a fault if it's no manifest.
        sizes_only: look at sizes alone, which costs no reading.
    """
    if not isinstance(manifest, Mapping):
        return Fault("", "no list of its files", "one")
    for name, entry in manifest.items():
        size, digest = (entry.get("bytes"), entry.get("blake3")) if isinstance(entry, Mapping) else (None, entry)
        file, whole = folder / name, f"{'some' if size is None else size} bytes"
        if not file.is_file():
            return Fault(name, "missing", whole)
        if size is not None and (found := file.stat().st_size) != size:
            return Fault(name, f"{found} bytes", whole)
        if not sizes_only and (now := hash_file(file)) != digest:
            return Fault(name, f"blake3 {now[:16]}", f"blake3 {str(digest)[:16]}")
    return None
