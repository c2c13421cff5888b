"""Unified diffs: make them, and apply them as git and patch do."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_OCTAL = re.compile(r"\\([0-7]{3}|.)")
_ESCAPES = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "v": 11, "f": 12}
_NO_NEWLINE = "\\"


class PatchError(Exception):
    """A unified diff that can't be read or doesn't fit the files."""


@dataclass(frozen=True, slots=True)
class _Hunk:
    """Lines of one hunk, each with its end; `start` counts from 0, before anything else is changed."""

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


def file_diffs(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return path -> unified diff (hunks only, three lines of context) of every file that changed."""
    diffs = {}
    for path in sorted({*before, *after}):
        old, new = before.get(path, ""), after.get(path, "")
        if old != new:
            lines = difflib.unified_diff(old.split("\n"), new.split("\n"), n=3, lineterm="")
            diffs[path] = "\n".join(line for line in list(lines)[2:] if line)
    return diffs


def apply_patch(files: Mapping[str, str], patch: str) -> dict[str, str]:
    """Return the files after a unified diff, as git (any context, renames, new and empty files) or diff writes it.

    A hunk that doesn't stand where it says is looked for nearby, as patch does. White space at the ends of lines
    doesn't count in finding it.

    Raises:
        PatchError: a hunk's context stands nowhere, the diff is malformed, binary, or changes nothing.
    """
    result = dict(files)
    if patch.count("\r\n") == patch.count("\n"):  # the diff itself came through something that ends lines so
        patch = patch.replace("\r\n", "\n")
    rows = patch.split("\n")
    position, old_path, new_path, lines, offset = 0, "", "", [""], 0
    while position < len(rows):
        row = rows[position].rstrip("\r")
        position += 1
        if row.startswith("diff --git "):
            old_path, new_path = _git_paths(row, result)
        elif row.startswith(("GIT binary patch", "Binary files ")):
            raise PatchError("a binary patch")
        elif row.startswith("new file mode ") and new_path:
            result.setdefault(new_path, "")
        elif row.startswith("deleted file mode ") and old_path:
            result.pop(old_path, None)
        elif row.startswith(("rename to ", "copy to ")):
            new_path = _unquoted(row.split(" ", 2)[2])
            result[new_path] = _source(result, files, old_path)
            if row.startswith("rename") and old_path != new_path:
                result.pop(old_path, None)
        elif row.startswith(("rename from ", "copy from ")):
            old_path = _unquoted(row.split(" ", 2)[2])
        elif row.startswith("--- ") and position < len(rows) and rows[position].startswith("+++ "):
            old_path, new_path = (_path_of(header, files) for header in (row, rows[position].rstrip("\r")))
            position, offset = position + 1, 0
            lines = _split(result.get(new_path, files.get(old_path, "")))
            if new_path == "/dev/null":
                result.pop(old_path, None)
        elif match := _HUNK.match(row):
            hunk, position = _read_hunk(rows, position, match)
            if new_path in ("", "/dev/null"):
                continue
            start = _place(lines, hunk, hunk.start + offset, new_path)
            _replace(lines, start, hunk)
            offset = start - hunk.start + len(hunk.new) - len(hunk.old)
            result[new_path] = "".join(lines)
    if result == dict(files):
        raise PatchError("the diff changes nothing")
    return result


def _source(result: Mapping[str, str], files: Mapping[str, str], path: str) -> str:
    if path not in result and path not in files:
        raise PatchError(f"{path} isn't there to be renamed")
    return result.get(path, files.get(path, ""))


def _split(text: str) -> list[str]:
    """Return lines with their ends; the last one has none where the file doesn't end in one."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _place(lines: list[str], hunk: _Hunk, start: int, path: str) -> int:
    """Return the place nearest to `start` where the hunk's old lines stand."""
    old = [line.rstrip() for line in hunk.old]
    if not old:
        if start <= len(lines):
            return start
        raise PatchError(f"a hunk of {path} begins behind its end")
    places = range(len(lines) - len(old) + 1)
    for place in chain([start], sorted(places, key=lambda place: abs(place - start))):
        if [line.rstrip() for line in lines[place : place + len(old)]] == old:
            return place
    raise PatchError(f"a hunk of {path} at line {start + 1} doesn't fit")


def _replace(lines: list[str], start: int, hunk: _Hunk) -> None:
    end = start + len(hunk.old)
    new = list(hunk.new)
    if end < len(lines) and new and not new[-1].endswith("\n"):
        new[-1] += "\n"  # only a file's last line can lack its end
    if start and new and not lines[start - 1].endswith("\n"):
        lines[start - 1] += "\n"
    lines[start:end] = new


def _git_paths(row: str, files: Mapping[str, str]) -> tuple[str, str]:
    """Return the two paths of `diff --git a/x b/x`, empty where the line can't be cut for sure."""
    text = row.removeprefix("diff --git ")
    if text.startswith('"'):
        first, _, second = text[1:].partition('" ')
        return _stripped(_unquoted(f'"{first}"'), files), _stripped(_unquoted(second), files)
    half = len(text) // 2  # the same path twice, but for the prefixes
    first, second = text[:half], text[half + 1 :]
    if text[half : half + 1] == " " and (first == second or first[2:] == second[2:]):
        return _stripped(first, files), _stripped(second, files)
    return "", ""


def _path_of(header: str, files: Mapping[str, str]) -> str:
    """Return the path of a `---` or `+++` line; a tab ends it, and a date may follow."""
    path = _unquoted(header[4:].split("\t")[0].strip())
    return path if path == "/dev/null" else _stripped(path, files)


def _stripped(path: str, files: Mapping[str, str]) -> str:
    """Take off git's prefix, unless the file is known by its whole name (`git diff --no-prefix`)."""
    bare = re.sub(r"^[abciow]/", "", path)
    return path if path in files and bare not in files else bare


def _unquoted(path: str) -> str:
    """Read a path as git quotes it: in double quotes, odd characters as octal bytes."""
    if not (len(path) > 1 and path[0] == path[-1] == '"'):
        return path
    data, end = bytearray(), 1
    for match in _OCTAL.finditer(path, 1, len(path) - 1):
        data += path[end : match.start()].encode()
        code = match[1]
        data.append(int(code, 8) & 255 if len(code) == 3 else _ESCAPES.get(code, ord(code) & 255))
        end = match.end()
    return (data + path[end:-1].encode()).decode("utf-8", "replace")


def _read_hunk(rows: list[str], position: int, header: re.Match[str]) -> tuple[_Hunk, int]:
    old_count, new_count = (int(count) if count else 1 for count in (header[2], header[4]))
    old: list[str] = []
    new: list[str] = []
    while len(old) < old_count or len(new) < new_count:
        if position >= len(rows):
            raise PatchError("a hunk is cut off")
        sign, text = (rows[position][0], rows[position][1:]) if rows[position].rstrip("\r") else (" ", "")
        position += 1
        sides = {"-": [old], "+": [new], " ": [old, new], _NO_NEWLINE: []}.get(sign)
        if sides is None:
            raise PatchError(f"a hunk line starts with {sign!r}")
        for side in sides:
            side.append(f"{text}\n")
        _without_newline(rows, position, sides)
    # Where nothing is replaced, the header names the line before: what is new goes after it.
    start = int(header[1]) - (1 if old_count else 0)
    return _Hunk(max(start, 0), tuple(old), tuple(new)), position


def _without_newline(rows: list[str], position: int, sides: list[list[str]]) -> None:
    if position < len(rows) and rows[position].startswith(_NO_NEWLINE):
        for side in sides:
            side[-1] = side[-1][:-1]
