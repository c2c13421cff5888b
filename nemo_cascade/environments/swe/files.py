"""The two tools that need no sandbox: view and edit files of a tree. Their complaints are told to the policy."""

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_cascade.environments.swe.tree import REPOSITORY, Tree, folders_above
from nemo_cascade.rewards.swe.paths import unwritable

_MOST_LISTED = 200
_AROUND = 3


class ToolFault(ValueError):
    """A call that can't be done as it is; the policy is told so."""


def place_of(path: str) -> str:
    """Return a path from /tmp on; a relative one begins in the repository.

    Raises:
        ToolFault: it leads elsewhere.
    """
    whole = posixpath.normpath(posixpath.join("/tmp", REPOSITORY, path))
    if not whole.startswith("/tmp/") or "\0" in whole:
        raise ToolFault(f"{path[:200]!r} lies outside of /tmp")
    return whole.removeprefix("/tmp/")


def view(tree: Tree, path: str, view_range: Any) -> str:
    """Return numbered lines of a file, or the paths in a folder."""
    place = place_of(path)
    if place in tree.files:
        return _lines(tree.files[place], view_range)
    if place in tree.links:
        raise ToolFault(f"{path} is a link to {tree.links[place]}")
    paths = sorted(p for p in (*tree.files, *tree.links, *tree.folders) if p.startswith(f"{place}/"))
    if not paths and place not in tree.folders and place != REPOSITORY:
        raise ToolFault(f"there is no {path}")
    more = f"\n[... {len(paths) - _MOST_LISTED} more ...]" if len(paths) > _MOST_LISTED else ""
    return "\n".join(path.removeprefix(f"{place}/") for path in paths[:_MOST_LISTED]) + more or "(empty)"


def _lines(text: str, view_range: Any) -> str:
    lines = text.removesuffix("\n").split("\n")
    first, last = 1, len(lines)
    if view_range is not None:
        whole = isinstance(view_range, list) and len(view_range) == 2 and all(type(end) is int for end in view_range)
        if not whole:
            raise ToolFault("view_range is a list of two numbers, the first and the last line")
        first, last = view_range[0], len(lines) if view_range[1] == -1 else min(view_range[1], len(lines))
        if not 1 <= first <= last:
            raise ToolFault(f"view_range {view_range} of a file of {len(lines)} lines")
    return "\n".join(f"{number:6d}\t{line}" for number, line in enumerate(lines[first - 1 : last], first))


def edit(tree: Tree, arguments: Mapping[str, Any]) -> tuple[Tree, str]:
    """Return the tree after an edit, and what the policy is shown of it."""
    command, path = arguments.get("command"), arguments.get("path")
    if not isinstance(path, str):
        raise ToolFault("path is a text")
    place = place_of(path)
    if command == "create":
        return _created(tree, place, _text(arguments, "file_text"))
    if command not in ("str_replace", "insert"):
        raise ToolFault(f"command is one of str_replace, create, insert; not {command!r:.100}")
    if place not in tree.files:
        raise ToolFault(f"there is no file {path}")
    text = tree.files[place]
    if command == "str_replace":
        old, new = _text(arguments, "old_str"), _text(arguments, "new_str", "")
        if not old or (count := text.count(old)) != 1:
            raise ToolFault("old_str is empty" if not old else f"old_str stands in {path} {count} times, not once")
        begin = text.index(old)
        changed = text[:begin] + new + text[begin + len(old) :]
        first, size = text[:begin].count("\n") + 1, new.count("\n") + 1
    else:
        number, new = arguments.get("insert_line"), _text(arguments, "new_str")
        lines = text.removesuffix("\n").split("\n") if text else []
        if type(number) is not int or not 0 <= number <= len(lines):
            raise ToolFault(f"insert_line is a number of 0 to {len(lines)}, not {number!r:.100}")
        changed = "\n".join([*lines[:number], *new.removesuffix("\n").split("\n"), *lines[number:]]) + "\n"
        first, size = number + 1, new.count("\n") + 1
    shown = _lines(changed, [max(1, first - _AROUND), min(changed.count("\n") + 1, first + size - 1 + _AROUND)])
    return replace(tree, files={**tree.files, place: changed}), f"{path} is changed:\n{shown}"


def _created(tree: Tree, place: str, text: str) -> tuple[Tree, str]:
    others = {*tree.files, *tree.links} - {place}
    if place in tree.links or (problem := unwritable(place, others)):
        raise ToolFault(f"{place} is a link" if place in tree.links else problem)
    if any(folder == place or folder.startswith(f"{place}/") for folder in tree.folders):
        raise ToolFault(f"{place} is a folder, no file")
    folders = tree.folders - folders_above([place])
    return replace(tree, files={**tree.files, place: text}, folders=folders), f"/tmp/{place} is written"


def _text(arguments: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise ToolFault(f"{name} is a text, and needed")
    return value
