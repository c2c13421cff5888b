"""Content hashes (BLAKE3, hex) of what a run is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3

import nemo_cascade


def hash_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hash a JSON-like value by its canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return str(blake3(text.encode()).hexdigest())


def hash_file(path: Path) -> str:
    """Hash a file's bytes; memory-mapped, so large checkpoints cost no memory."""
    hasher = blake3()
    hasher.update_mmap(path)
    return str(hasher.hexdigest())


def hash_folder(folder: Path) -> str:
    """Hash all files below a folder with their relative names, in sorted order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hash_json([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files])


@cache
def code_version() -> str:
    """Return the package's version and a hash of its sources, `0.1.0+3f2a...`; right with and without git."""
    root = Path(nemo_cascade.__file__).parent
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2"))
    content = [[path.relative_to(root).as_posix(), hash_file(path)] for path in sources]
    version = getattr(nemo_cascade, "__version__", "0")
    return f"{version}+{hash_json(content)[:12]}"
