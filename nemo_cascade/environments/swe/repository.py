"""A task's repository out of a folder or a tar archive. Its history is left out: it may hold the golden patch."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nemo_cascade.environments.swe.tree import folders_above
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.swe.paths import unwritable

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_MOST_BYTES = 1 << 30
_HISTORY = frozenset({".git", ".hg", ".svn"})


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository's files.

    Attributes:
        files: path -> text, what is no UTF-8 as lone surrogates.
        executable: paths of those that may be executed.
    """

    files: Mapping[str, str]
    executable: tuple[str, ...]


@lru_cache(maxsize=32)
def read_repository(folder: str, name: str) -> Repository:
    """Read `<folder>/<name>`, or `<folder>/<name>.tar`, `.tar.gz` or `.tgz`; all samples of a task share it.

    Links are left out. An archive whose files all lie in one folder of the same name is read from that folder on.

    Raises:
        DataError: there is none, it can't be read, it holds what lies outside of it, or it is too large.
    """
    place = Path(folder) / name
    try:
        if place.is_dir():
            return _sound(_of_folder(place), place)
        for ending in _ARCHIVES:
            archive = Path(f"{place}{ending}")
            if archive.is_file():
                return _sound(_of_archive(archive, name), archive)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError("a repository can't be read", value=f"{place}: {error}") from error
    raise DataError(
        "there is no repository of a row", value=str(place), limit=f"a folder, or a file ending in {_ARCHIVES}"
    )


Entry = tuple[str, int, bytes]
"""Path, mode, content."""


def _sound(entries: Iterator[Entry], place: Path) -> Repository:
    files: dict[str, str] = {}
    executable = []
    size = 0
    for path, mode, content in entries:
        if _HISTORY & set(path.split("/")):
            continue
        if problem := unwritable(path, ()):
            raise DataError("a repository holds what is no file of it", value=f"{place}: {problem}")
        if (size := size + len(content)) > _MOST_BYTES:
            raise DataError("a repository is too large", value=str(place), limit=f"{_MOST_BYTES} bytes")
        files[path] = content.decode("utf-8", "surrogateescape")
        if mode & 0o100:
            executable.append(path)
    if not files or (both := sorted(folders_above(files) & files.keys())):
        value = f"{place}: {both[0]}" if files else str(place)
        raise DataError("a repository holds no files, or a file that is a folder, too", value=value)
    return Repository(files, tuple(executable))


def _of_folder(place: Path) -> Iterator[Entry]:
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if name not in _HISTORY)
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(place).as_posix(), file.stat().st_mode, file.read_bytes()


def _of_archive(archive: Path, name: str) -> Iterator[Entry]:
    with tarfile.open(archive) as members:
        found = [member for member in members if member.isfile()]
        paths = [member.name.removeprefix("./") for member in found]
        prefix = f"{name}/" if all(path.startswith(f"{name}/") for path in paths) else ""
        for member, path in zip(found, paths, strict=True):
            if member.size > _MOST_BYTES:
                raise DataError("a file of a repository is too large", value=path, limit=f"{_MOST_BYTES} bytes")
            content = members.extractfile(member)
            assert content is not None, "a plain file"
            yield path.removeprefix(prefix), member.mode, content.read()
