"""All files of a sample's world between two turns.

Texts hold any bytes: what is no UTF-8 stands in them as lone surrogates (Python's `surrogateescape`).
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nemo_cascade.rewards.swe.trial import file_bytes

REPOSITORY = "repo"
"""The repository's folder in the sample's /tmp."""
_PAGE_BYTES = 4096
# Of what a run's /tmp holds, what the shell brings itself and a command needs beside.
_BYTES_SHARE, _ENTRIES_PER_MIB = 0.75, 192
_LONGEST_PATH = 1000


@dataclass(frozen=True, slots=True)
class Tree:
    """Files by their paths from /tmp on; immutable, so that all samples of a task begin with the same one.

    Attributes:
        files: path -> text.
        executable: paths of files that may be executed.
        links: path -> where a symbolic link leads, as it is written in it.
        folders: those that hold nothing.
    """

    files: Mapping[str, str]
    executable: frozenset[str] = frozenset()
    links: Mapping[str, str] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()

    def problem(self, most_mib: int) -> str:
        """Say why the tree doesn't fit a /tmp of this size, or return an empty text."""
        paths = [*self.files, *self.links, *self.folders]
        if longest := next((path for path in paths if len(path) > _LONGEST_PATH), ""):
            return f"a path of {len(longest)} characters, at most {_LONGEST_PATH}"
        pages = sum(len(file_bytes(text)) // _PAGE_BYTES + 1 for text in self.files.values())
        if pages * _PAGE_BYTES > (room := int(_BYTES_SHARE * (most_mib << 20))):
            return f"files of {pages * _PAGE_BYTES} bytes, at most {room}"
        entries = len(paths) + len(folders_above(paths))
        if entries > (most := _ENTRIES_PER_MIB * most_mib):
            return f"{entries} files and folders, at most {most}"
        return ""

    def repository(self) -> dict[str, str]:
        """Return path -> text of the repository's files; a link is the file that it leads to, if it is one of them."""
        prefix = f"{REPOSITORY}/"
        found = {path.removeprefix(prefix): text for path, text in self.files.items() if path.startswith(prefix)}
        for path, target in self.links.items():
            leads_to = posixpath.normpath(posixpath.join("/tmp", posixpath.dirname(path), target))
            text = self.files.get(leads_to.removeprefix("/tmp/"))
            if path.startswith(prefix) and text is not None:
                found[path.removeprefix(prefix)] = text
        return found


def tree_of(repository: Mapping[str, str], executable: Iterable[str] = ()) -> Tree:
    """Return the tree that holds a repository and nothing else."""
    files = {f"{REPOSITORY}/{path}": text for path, text in repository.items()}
    return Tree(files, frozenset(f"{REPOSITORY}/{path}" for path in executable))


def folders_above(paths: Iterable[str]) -> set[str]:
    """Return all folders that paths lie in."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found
