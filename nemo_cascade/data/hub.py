"""Datasets of the Hugging Face hub, streamed once into local JSONL files.

From then on such a source is like any other: hashed, cut into units, the same on every run and on every node that sees
the folder. Nothing is held in memory. A folder is there when it is complete; one that was interrupted is fetched anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.sources import without_nulls
from nemo_cascade.errors import DataError

SCHEME = "hf://"
HUB = "hub"
"""Folder of all fetched sets, in data_dir."""
_FILE_BYTES = 256 << 20


def local_path(source: DataFileConfig, data_dir: str | Path) -> str:
    """Return where a source's files lie, fetching them if it's a set of the hub that wasn't yet.

    Args:
        source: `path` of local files, or `hf://NAME`; a NAME that is a local folder is read by `datasets` as well.
        data_dir: where prepared data lives.

    Raises:
        DataError: the set can't be read; says why.
    """
    if not source.path.startswith(SCHEME):
        return source.path
    name = source.path.removeprefix(SCHEME)
    recipe = {"name": name, "subset": source.subset, "split": source.split, "revision": source.revision}
    key = blake3(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(data_dir) / HUB / f"{Path(name).name}-{source.split}-{key}"
    make_folder(folder, lambda building: _fetch(building, name, source, recipe))
    return str(folder)


def _fetch(folder: Path, name: str, source: DataFileConfig, recipe: Mapping[str, Any]) -> None:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, source.subset, split=source.split, revision=source.revision, streaming=True)
        count = _write(folder, rows)
    except (DatasetsError, OSError, ValueError) as error:
        mend = "check name, subset, split and revision; offline, give the path of local files"
        raise DataError(f"a set of the hub can't be read: {error}", value=dict(recipe), mend=mend) from error
    if not count:
        raise DataError("a set of the hub has no rows", value=dict(recipe))
    (folder / "fetched.json").write_text(json.dumps({**recipe, "rows": count}, indent=1) + "\n", encoding="utf-8")


def _write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL files of a bounded size. Returns how many."""
    count, number, left = 0, 0, 0
    stream = None
    try:
        for row in rows:
            line = json.dumps(without_nulls(dict(row)), ensure_ascii=False, default=str) + "\n"
            if stream is None or left <= 0:
                if stream is not None:
                    stream.close()
                stream = (folder / f"part-{number:05}.jsonl").open("w", encoding="utf-8")
                number, left = number + 1, _FILE_BYTES
            left -= stream.write(line)
            count += 1
    finally:
        if stream is not None:
            stream.close()
    return count
