"""Content hashes: BLAKE3, 64 hex digits.

JSON has two forms here, each in use on disk: ledgers chain one, names of prepared data and checkpoints' manifests hang
on the other.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3


def hash_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hash a JSON-like value by its canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return str(blake3(text.encode()).hexdigest())


def hash_recipe(recipe: Mapping[str, Any]) -> str:
    """Hash everything that some data depend on, to name them by it: sorted keys, spaces, ASCII."""
    return str(blake3(json.dumps(recipe, sort_keys=True).encode()).hexdigest())


def hash_file(path: Path) -> str:
    """Hash a file's bytes; memory-mapped and on all cores, so large checkpoints cost no memory."""
    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())


def hash_folder(folder: Path) -> str:
    """Hash all files below a folder with their relative names, in sorted order."""
    return hash_json([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files_below(folder)])


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
