"""Which data files a path means: never those of another split, of a cache or of a half-finished download, and none is
passed over in silence.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from blake3 import blake3

from nemo_cascade.errors import DataError

SUFFIXES = (".jsonl", ".parquet", ".arrow")
SPLITS = "dataset_dict.json"
"""What `datasets` writes into a folder of several splits, each a folder that it saved."""
_STATE = "state.json"
# What holds rows in a form that isn't read here; a file of the folder that says something of the others may be JSON.
_OTHER_DATA = {
    *(".json", ".jsonlines", ".ndjson", ".jsonl", ".parquet", ".arrow", ".csv", ".tsv", ".pq", ".feather", ".orc"),
    *(".avro", ".pkl", ".pickle", ".gz", ".zst", ".xz", ".bz2", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".npy", ".npz"),
    *(".incomplete", ".crdownload", ".xml", ".sqlite", ".db", ".tfrecord", ".bin"),
}
_ABOUT = {_STATE, SPLITS, "dataset_info.json", "dataset_infos.json", "prepared.json", "hashes.json", "fetched.json"}
_CACHE = re.compile(r"(cache-|tmp)\w*\.arrow")
_SPLIT = re.compile(r"(?<![a-z])(?:(train(?:ing)?)|(valid(?:ation)?|val|dev|test(?:ing)?|eval(?:uation)?))(?![a-z])")


def data_files(path: str | Path) -> list[Path]:
    """List the data files of a path: itself, or all JSONL, parquet and arrow files below it, sorted.

    A folder that `datasets` saved holds the files that it lists, whatever else lies there. Names that begin with a dot
    or two underscores are hidden, as they are to `datasets`.

    Raises:
        DataError: nothing there, no data file in it, or what may be data and isn't read: files of another kind, several
            splits, caches, links to nowhere, names that are no text. Names them.
    """
    root = Path(path)
    if root.is_dir():
        files = _below(root)
        if not files:
            raise DataError("no data file in the folder", value=str(root), limit=" or ".join(SUFFIXES))
    elif not root.is_file():
        raise DataError("no such data file or folder", value=str(root), mend="check the path, or prepare the data")
    elif root.suffix not in SUFFIXES:
        raise DataError("unknown kind of data file", value=str(root), limit=" or ".join(SUFFIXES))
    else:
        files = [root]
    unreadable = [file for file in files if not os.access(file, os.R_OK)]
    _refuse(root, "files that may not be read", unreadable, "change their permissions")
    unnamed = [file for file in files if not _is_text(str(file))]
    _refuse(root, "files whose names are no UTF-8", unnamed, "rename them")
    return files


def hash_files(path: str | Path) -> list[str]:
    """Hash the content of every data file of a path, in order (blake3, 64 hex digits each)."""
    return [blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest() for file in data_files(path)]


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split in one that `datasets` saved with several.

    Raises:
        DataError: there is no such split; names those there are.
    """
    splits = _splits(root)
    if split not in splits:
        raise DataError(
            "no such split in the folder", value=f"{root}, split={split}", limit=", ".join(splits), mend="set `split`"
        )
    return root / split


def _splits(root: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((root / SPLITS).read_text(encoding="utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"a folder of splits that can't be read: {error!r}", value=str(root / SPLITS)) from error


def _below(root: Path) -> list[Path]:
    """List the data files below a folder."""
    found = _walk(root)
    if several := [file.parent for file in found if file.name == SPLITS]:
        value = f"{several[0]}: {', '.join(_splits(several[0]))}"
        raise DataError("a folder of several splits", value=value, mend="set `split`, or give the folder of one")
    saved = {file.parent: _listed(file) for file in found if file.name == _STATE}
    saved = {folder: listed for folder, listed in saved.items() if listed}
    rest = [file for file in found if file.parent not in saved or file.suffix != ".arrow"]
    other = [f for f in rest if f.suffix.lower() in _OTHER_DATA and f.suffix not in SUFFIXES and f.name not in _ABOUT]
    _refuse(
        root, "files that may be data and aren't read", other, "turn them into .jsonl, move them, or give hf://FOLDER"
    )
    data = [file for file in rest if file.suffix in SUFFIXES]
    _refuse(root, "links to nowhere", [f for f in data if not f.exists()], "bring back what they point to")
    _refuse(root, "caches of `datasets`", [f for f in data if _CACHE.fullmatch(f.name)], "save the set, or move them")
    _refuse_splits(root, data)
    return sorted([*(f for f in data if f.is_file()), *(f for listed in saved.values() for f in listed)])


def _walk(root: Path) -> list[Path]:
    """List all files below a folder, linked folders included, hidden names not."""
    files: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        where = os.path.realpath(folder)
        if where in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(where)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        files += [Path(folder) / name for name in names if not name.startswith((".", "__"))]
    return sorted(files)


def _listed(state: Path) -> list[Path]:
    """Return the data files that the state of a saved set lists; empty where it is another's file of that name."""
    try:
        facts = json.loads(state.read_text(encoding="utf-8"))
        files = [state.parent / str(entry["filename"]) for entry in facts["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if chosen := [facts[name] for name in ("_indices_data_files", "_indices_files") if facts.get(name)]:
        mend = "save it again after flatten_indices()"
        raise DataError("a saved set of which only some rows are meant", value=f"{state}: {chosen[0]}", mend=mend)
    if missing := [file for file in files if not file.is_file()]:
        _refuse(state.parent, f"files that {_STATE} lists and that aren't there", missing, "save or copy the set again")
    return files


def _refuse_splits(root: Path, files: list[Path]) -> None:
    """Refuse a folder in which some files are named for training and others for evaluation."""
    found: dict[bool, Path] = {}
    for file in files:
        for match in _SPLIT.finditer(str(file.relative_to(root)).lower()):
            found.setdefault(match[1] is not None, file)
    if len(found) == 2:
        named = ", ".join(str(found[kind].relative_to(root)) for kind in (True, False))
        mend = "give the files of one split, a folder of them, or hf://FOLDER, which takes `split`"
        raise DataError("a folder that holds several splits", value=f"{root}: {named}", mend=mend)


def _refuse(root: Path, what: str, files: list[Path], mend: str) -> None:
    if files:
        named = ", ".join(ascii(str(f)) if not _is_text(str(f)) else str(f) for f in files[:5])
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        raise DataError(f"{what} in {ascii(str(root))[1:-1]}", value=named + more, mend=mend)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)
