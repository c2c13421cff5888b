"""Datasets of the Hugging Face hub, streamed once into local JSONL files.

From then on such a source is like any other: hashed, cut into units, the same on every run and on every node that sees
the folder. Nothing is held in memory. A folder is there when it is complete; a fetch that was interrupted goes on
behind the last file that was finished. A local folder that `datasets` read, and that changed since, is refused.
"""

import fcntl
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.data.rows.files import SPLITS, split_folder
from nemo_cascade.data.rows.tables import without_nulls
from nemo_cascade.errors import DataError
from nemo_cascade.storage.atomic import write_json
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.storage.publish import publish

SCHEME = "hf://"
HUB = "hub"
"""Folder of all fetched sets, in data_dir."""
_FILE_BYTES = 256 << 20
_DEFAULT_SPLIT = "train"
_STATE, _DONE = "state.json", "fetched.json"


def local_path(source: DataFileConfig, data_dir: str | Path) -> str:
    """Return where a source's files lie, fetching them if it's a set of the hub that wasn't yet.

    Args:
        source: `path` of local files, or `hf://NAME`; a NAME that is a local folder is read by `datasets` as well. Of a
            folder that `datasets` saved with several splits, `split` is taken.
        data_dir: where prepared data lives.

    Raises:
        DataError: the set can't be read, or the source says of local files what only sets of the hub have; says why.
    """
    if not source.path.startswith(SCHEME):
        return _local(source)
    name = source.path.removeprefix(SCHEME)
    recipe = {"name": name, "subset": source.subset, "split": source.split, "revision": source.revision}
    key = hash_recipe(recipe)[:12]
    final = Path(data_dir) / HUB / f"{Path(name).name}-{source.split}-{key}"
    state = _local_state(name, Path(data_dir))
    if not final.is_dir():
        with _alone(final.parent / f".{final.name}.partial") as partial:
            if not final.is_dir():  # nor did anybody finish it meanwhile
                _fetch(partial, recipe, state)
                publish(partial, final)
    _refuse_changed(final, state)
    return str(final)


def _local(source: DataFileConfig) -> str:
    root = Path(source.path)
    has_splits = (root / SPLITS).is_file()
    said = {"subset": source.subset, "revision": source.revision, "split": None if has_splits else source.split}
    if unread := [f"{name}={value}" for name, value in said.items() if value not in (None, _DEFAULT_SPLIT)]:
        raise DataError(
            "local files have no such thing",
            value=f"{source.path}, {', '.join(unread)}",
            limit="of hf:// sets only; `split` also of a folder that `datasets` saved with several",
            mend="give the path of just the files that are meant",
        )
    return str(split_folder(root, source.split)) if has_splits else source.path


def _local_state(name: str, data_dir: Path) -> dict[str, list[int]]:
    """Return size and time of all files of a local folder by their paths, without what is made there; else nothing."""
    root = Path(name)
    made = data_dir.resolve() / (HUB if root.resolve().is_relative_to(data_dir.resolve()) else "")
    files = (file for file in root.rglob("*") if file.is_file()) if root.is_dir() else ()
    own = [file for file in files if not file.resolve().is_relative_to(made)]
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in own}


def _refuse_changed(final: Path, now: Mapping[str, Any]) -> None:
    """Refuse what was read of a local folder that has other files by now; one that is gone counts as it was."""
    read = json.loads((final / _DONE).read_text(encoding="utf-8")).get("files")
    # What an earlier version read has no record of it.
    if changed := sorted(file for file, facts in now.items() if read is not None and read.get(file) != facts):
        mend = f"remove {final}; the set is read again"
        raise DataError("a folder changed since its rows were read", value=changed[0], mend=mend)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Make a folder and hold it alone: who else fetches anything beside it waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: then only one may fetch
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        os.close(lock)


def _fetch(folder: Path, recipe: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Stream a set into a folder, on from where an earlier fetch stopped."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    done: dict[str, Any] = {"files": 0, "rows": 0, "stream": None}
    if (folder / _STATE).is_file():
        done = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    try:
        stream = load_dataset(
            recipe["name"], recipe["subset"], split=recipe["split"], revision=recipe["revision"], streaming=True
        )
        if done["stream"] is not None:
            stream.load_state_dict(done["stream"])
        rows = iter(stream)
        while count := _write_file(folder / f"part-{done['files']:05}.jsonl", rows):
            done = {"files": done["files"] + 1, "rows": done["rows"] + count, "stream": stream.state_dict()}
            write_json(folder / _STATE, done)
    except (DatasetsError, OSError, ValueError) as error:
        mend = "check name, subset, split and revision; offline, give the path of local files"
        raise DataError(f"a set of the hub can't be read: {error}", value=dict(recipe), mend=mend) from error
    if not done["rows"]:
        raise DataError("a set of the hub has no rows", value=dict(recipe), mend="name another split or subset")
    write_json(folder / _DONE, {**recipe, "rows": done["rows"], "files": files})
    (folder / _STATE).unlink()


def _write_file(file: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write the next rows into a file of a bounded size. Returns how many; no file without any."""
    first = next(rows, None)
    if first is None:
        return 0
    count, size = 0, 0
    # Half a surrogate pair is written as its escape, as JSON has it: its row is told when it is read.
    with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for row in itertools.chain([first], rows):
            size += stream.write(json.dumps(without_nulls(dict(row)), ensure_ascii=False, default=str) + "\n")
            count += 1
            if size >= _FILE_BYTES:
                break
        stream.flush()
        os.fsync(stream.fileno())
    return count
