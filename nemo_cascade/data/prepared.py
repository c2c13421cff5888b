"""Write a folder of prepared data once: complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

MARK = "prepared.json"


def write_once(folder: str | Path, recipe: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Fill a folder unless it was already filled by the same recipe.

    The data is written under another name and renamed, so that a folder that exists is complete; what an older
    recipe left there is replaced.

    Args:
        folder: where the data belongs.
        recipe: everything that the data depends on.
        write: fills the folder it is given.
    """
    final, mark = Path(folder), json.dumps(recipe, sort_keys=True) + "\n"
    if (final / MARK).is_file() and (final / MARK).read_text(encoding="utf-8") == mark:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    building.chmod(0o755)
    try:
        write(building)
        (building / MARK).write_text(mark, encoding="utf-8")
        if final.exists():
            final.rename(building / ".replaced")
        building.rename(final)
        shutil.rmtree(final / ".replaced", ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
