"""Which data files a path means: never those of another split, of a cache or of a half-finished download; none twice,
all parts of a set that says how many it has; and none is passed over in silence.
"""

import filecmp
import itertools
import json
import os
import re
from pathlib import Path

from nemo_cascade.errors import DataError
from nemo_cascade.storage.hashes import hash_file

SUFFIXES = (".jsonl", ".parquet", ".arrow")
SPLITS = "dataset_dict.json"
"""What `datasets` writes into a folder of several splits, each a folder that it saved."""
_STATE = "state.json"
# What holds rows in a form that isn't read here; a file of the folder that says something of the others may be JSON.
_OTHER_DATA = {
    *(".json", ".jsonlines", ".ndjson", ".jsonl", ".parquet", ".arrow", ".csv", ".tsv", ".pq", ".feather", ".orc"),
    *(".avro", ".pkl", ".pickle", ".gz", ".zst", ".xz", ".bz2", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".npy", ".npz"),
    *(".incomplete", ".crdownload", ".xml", ".sqlite", ".db", ".tfrecord", ".bin", ".part", ".partial", ".tmp", ".bak"),
    ".old",
}
# What stands beside a data file and says something of it: a.jsonl.sha256.
_BESIDE = {".md5", ".sha1", ".sha256", ".blake3", ".crc", ".lock", ".idx", ".index", ".meta", ".metadata", ".license"}
_PART = re.compile(r"(.*?)(\d{3,})-of-(\d{3,})(.*)")
_COPY = re.compile(r"( ?\(\d+\)|[ _-]copy( ?\d*)?)\Z", re.IGNORECASE)
_ROWS = re.compile(rb"\s*[\[{]\s*[\[{\"]")
_FIRST_BYTES = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file that it stands for: git lfs pull"),
    (b"\x1f\x8b", "compressed (gzip)", "decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstandard)", "decompress it"),
    (b"\xfd7zXZ", "compressed (xz)", "decompress it"),
    (b"BZh", "compressed (bzip2)", "decompress it"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"PAR1", "a parquet file", "name it .parquet"),
    (b"ARROW1", "an arrow file", "name it .arrow"),
    (b"\xff\xfe", "in UTF-16 or UTF-32", "save it in UTF-8"),
    (b"\xfe\xff", "in UTF-16", "save it in UTF-8"),
    (b"\0\0\xfe\xff", "in UTF-32", "save it in UTF-8"),
)
_ABOUT = {_STATE, SPLITS, "dataset_info.json", "dataset_infos.json", "prepared.json", "hashes.json", "fetched.json"}
_CACHE = re.compile(r"(cache-|tmp)\w*\.arrow")
_SPLIT = re.compile(r"(?<![a-z])(?:(train(?:ing)?)|(valid(?:ation)?|val|dev|test(?:ing)?|eval(?:uation)?))(?![a-z])")


def data_files(path: str | Path) -> list[Path]:
    """List the data files of a path: itself, or all JSONL, parquet and arrow files below it, sorted.

    A folder that `datasets` saved holds the files that it lists, whatever else lies there. Names that begin with a dot
    or two underscores are hidden, as they are to `datasets`.

    Raises:
        DataError: nothing there, no data file in it, or what may be data and isn't read: files of another kind, several
            splits, caches, links to nowhere, names that are no text, a part of a set missing, a file twice, a file
            that is something else than its name says. Names them.
    """
    root = Path(path)
    if root.is_dir():
        files = _below(root)
        if not files:
            raise DataError(
                "no data file in the folder",
                value=str(root),
                limit=" or ".join(SUFFIXES),
                mend="put one there, or name the file",
            )
    elif not root.is_file():
        raise DataError("no such data file or folder", value=str(root), mend="check the path, or prepare the data")
    elif root.suffix not in SUFFIXES:
        raise DataError(
            "unknown kind of data file", value=str(root), limit=" or ".join(SUFFIXES), mend="convert it to one of these"
        )
    else:
        files = [root]
    unreadable = [file for file in files if not os.access(file, os.R_OK)]
    _refuse(root, "files that may not be read", unreadable, "change their permissions")
    unnamed = [file for file in files if not _is_text(str(file))]
    _refuse(root, "files whose names are no UTF-8", unnamed, "rename them")
    for file in files:
        _refuse_other_content(file)
    return files


def hash_files(path: str | Path) -> list[str]:
    """Hash the content of every data file of a path, in order (blake3, 64 hex digits each)."""
    return [hash_file(file) for file in data_files(path)]


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
        raise DataError(
            f"a folder of splits that can't be read: {error!r}",
            value=str(root / SPLITS),
            mend="name one of its data files",
        ) from error


def _below(root: Path) -> list[Path]:
    """List the data files below a folder."""
    found = _walk(root)
    if several := [file.parent for file in found if file.name == SPLITS]:
        value = f"{several[0]}: {', '.join(_splits(several[0]))}"
        raise DataError("a folder of several splits", value=value, mend="set `split`, or give the folder of one")
    saved = {file.parent: _listed(file) for file in found if file.name == _STATE}
    saved = {folder: listed for folder, listed in saved.items() if listed}
    rest = [file for file in found if file.parent not in saved or file.suffix != ".arrow"]
    other = [f for f in rest if f.suffix not in SUFFIXES and f.name not in _ABOUT and _may_be_data(f)]
    _refuse(
        root, "files that may be data and aren't read", other, "turn them into .jsonl, move them, or give hf://FOLDER"
    )
    data = [file for file in rest if file.suffix in SUFFIXES]
    _refuse(root, "links to nowhere", [f for f in data if not f.exists()], "bring back what they point to")
    _refuse(root, "caches of `datasets`", [f for f in data if _CACHE.fullmatch(f.name)], "save the set, or move them")
    _refuse_splits(root, data)
    files = sorted([*(f for f in data if f.is_file()), *(f for listed in saved.values() for f in listed)])
    _refuse_gaps(root, files)
    _refuse_twice(root, files)
    return files


def _may_be_data(file: Path) -> bool:
    """Tell whether a file that isn't read may hold rows: by any part of its name, or by how it begins."""
    parts = [suffix.lower().rstrip("~") for suffix in file.suffixes]
    if parts and parts[-1] in _BESIDE:
        return False
    if any(part in _OTHER_DATA for part in parts):
        return True
    # A name without a suffix, or one that is a number or a text's, tells nothing.
    return (not parts or parts[-1] == ".txt" or parts[-1][1:].isdigit()) and _ROWS.match(_first_bytes(file)) is not None


def _first_bytes(file: Path) -> bytes:
    """Return how a file begins; nothing where it isn't to be read."""
    if not (file.is_file() and os.access(file, os.R_OK)):
        return b""
    with file.open("rb") as stream:
        return stream.read(64)


def _refuse_other_content(file: Path) -> None:
    """Refuse a file that is something else than its name says."""
    begin = _first_bytes(file)
    # A table that is none is told by who reads it.
    for magic, what, mend in _FIRST_BYTES if file.suffix == ".jsonl" else _FIRST_BYTES[:1]:
        if begin.startswith(magic):
            raise DataError(f"named {file.suffix}, and is {what}", value=str(file), mend=mend)


def _refuse_gaps(root: Path, files: list[Path]) -> None:
    """Refuse a set of which some parts aren't there, where its names say how many it has."""
    there: dict[tuple[Path, str, str, str], set[int]] = {}
    for file in files:
        if found := _PART.fullmatch(file.name):
            there.setdefault((file.parent, found[1], found[3], found[4]), set()).add(int(found[2]))
    for (folder, begin, count, end), numbers in there.items():
        first = 1 if 0 not in numbers and int(count) in numbers else 0
        missing = list(itertools.islice((n for n in range(first, int(count) + first) if n not in numbers), 5))
        if missing:
            named = [folder / f"{begin}{number:0{len(count)}}-of-{count}{end}" for number in missing]
            _refuse(root, "parts of a set that aren't there", named, "bring them, or rename the others")


def _refuse_twice(root: Path, files: list[Path]) -> None:
    """Refuse a folder that holds a file twice: linked, in two forms, or copied, as its name says."""
    places: dict[tuple[int, int], Path] = {}
    stems: dict[Path, Path] = {}
    for file in files:
        facts, stem = file.stat(), file.with_suffix("")
        same = places.setdefault((facts.st_dev, facts.st_ino), file)
        if same == file:
            same = stems.setdefault(stem, file)
        if same != file:
            _refuse(root, "a set's rows twice", [same, file], "leave one of them")
    for stem, file in stems.items():
        same = stems.get(stem.with_name(_COPY.sub("", stem.name)), file)
        if same != file and filecmp.cmp(same, file, shallow=False):
            _refuse(root, "a set's rows twice", [same, file], "leave one of them")


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
