"""Unified diffs: make them, apply them, and measure how alike two patches are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
# Above this product of lengths characters are too many to compare; lines are compared instead.
_MAX_CHARACTER_PRODUCT = 25_000_000


class PatchError(Exception):
    """A unified diff that can't be read or doesn't fit the files."""


def file_diffs(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return path -> unified diff (hunks only, three lines of context) of every file that changed."""
    diffs = {}
    for path in sorted({*before, *after}):
        old, new = before.get(path, ""), after.get(path, "")
        if old != new:
            lines = difflib.unified_diff(old.split("\n"), new.split("\n"), n=3, lineterm="")
            diffs[path] = "\n".join(line for line in list(lines)[2:] if line)
    return diffs


def patch_similarity(ours: Mapping[str, str], golden: Mapping[str, str]) -> float:
    """Return the mean similarity in [0, 1] of the diffs of all files that either patch changes.

    The measure of a file is difflib's ratio of matching characters, without position numbers of hunks, so that the
    same change further down is the same change (Unidiff similarity, arXiv 2502.18449 and 2512.13607, section 4.7).
    """
    paths = {*ours, *golden}
    if not paths:
        return 1.0
    return sum(_ratio(ours.get(path, ""), golden.get(path, "")) for path in sorted(paths)) / len(paths)


def _ratio(first: str, second: str) -> float:
    one, two = _HUNK.sub("@@", first), _HUNK.sub("@@", second)
    if one == two:
        return 1.0
    if not one or not two:
        return 0.0
    if len(one) * len(two) <= _MAX_CHARACTER_PRODUCT:
        return difflib.SequenceMatcher(None, one, two, autojunk=False).ratio()
    return difflib.SequenceMatcher(None, one.split("\n"), two.split("\n"), autojunk=False).ratio()


def apply_patch(files: Mapping[str, str], patch: str) -> dict[str, str]:
    """Return the files after a unified diff with `---`/`+++` headers.

    Raises:
        PatchError: a hunk's context doesn't stand where it says, or the diff is malformed.
    """
    result = dict(files)
    path, lines, offset = "", [""], 0
    rows = patch.split("\n")
    position = 0
    while position < len(rows):
        row = rows[position]
        position += 1
        if row.startswith("--- ") and position < len(rows) and rows[position].startswith("+++ "):
            old, new = (_path_of(header) for header in (row, rows[position]))
            position += 1
            path, offset = (old if new == "/dev/null" else new), 0
            lines = result[path].split("\n") if path in result else []
            if new == "/dev/null":
                result.pop(path, None)
                path = ""
        elif match := _HUNK.match(row):
            if not path:
                continue
            hunk, position = _read_hunk(rows, position, int(match[2] or 1), int(match[4] or 1))
            old_lines = [text for sign, text in hunk if sign in " -"]
            start = max(int(match[1]) - 1, 0) + offset
            if [line.rstrip() for line in lines[start : start + len(old_lines)]] != [t.rstrip() for t in old_lines]:
                raise PatchError(f"a hunk of {path} at line {start + 1} doesn't fit")
            new_lines = [text for sign, text in hunk if sign in " +"]
            lines[start : start + len(old_lines)] = new_lines
            offset += len(new_lines) - len(old_lines)
            result[path] = "\n".join(lines)
    if result == dict(files):
        raise PatchError("the diff changes nothing")
    return result


def _path_of(header: str) -> str:
    path = header[4:].split("\t")[0].strip()
    return path if path == "/dev/null" else re.sub(r"^[ab]/", "", path)


def _read_hunk(rows: list[str], position: int, old: int, new: int) -> tuple[list[tuple[str, str]], int]:
    hunk: list[tuple[str, str]] = []
    while old > 0 or new > 0:
        if position >= len(rows):
            raise PatchError("a hunk is cut off")
        row = rows[position]
        position += 1
        if row.startswith("\\"):  # no newline at end of file
            continue
        sign, text = (row[0], row[1:]) if row else (" ", "")
        if sign not in " +-":
            raise PatchError(f"a hunk line starts with {sign!r}")
        hunk.append((sign, text))
        old -= sign in " -"
        new -= sign in " +"
    return hunk, position
