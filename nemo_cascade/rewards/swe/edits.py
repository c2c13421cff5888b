"""Read SEARCH/REPLACE edits out of an answer and apply them to the files that the prompt showed.

(arXiv 2512.13607, appendix C.2: reasoning in <think>, edits in <solution>, each with its file's path.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SOLUTION = re.compile(r"<solution>(.*?)</solution>", re.DOTALL)
_SEARCH, _DIVIDER, _REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_PATH = re.compile(
    r"\s*(?:#{2,4}\s+|(?:\*\*|`)?File:?\s*|---\s+(?:a/)?)?[`*]{0,2}([\w.@+-]+(?:/[\w.@+-]+)*)[`*:]{0,3}\s*"
)
_MAX_CHARS = 1_000_000


class EditError(Exception):
    """An answer whose edits can't be read or don't fit the files: the policy's mistake."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one file."""

    path: str
    search: str
    replace: str


def solution_part(answer: str) -> str:
    """Return what stands in the last `<solution>` tags, or the whole answer if there are none."""
    if answer.count("<solution>") > 100:
        return answer
    found = _SOLUTION.findall(answer)
    return found[-1] if found else answer


def parse_edits(answer: str) -> list[Edit]:
    """Return the edits of an answer, in order.

    An edit is `<<<<<<< SEARCH`, lines, `=======`, lines, `>>>>>>> REPLACE`, each marker alone on its line; the file's
    path stands on a line before it (`### path/to/file.py`) and holds until the next path.

    Raises:
        EditError: there is no edit, one doesn't end, or one has no path.
    """
    text = solution_part(answer)
    if len(text) > _MAX_CHARS:
        raise EditError(f"an answer of {len(text)} characters")
    edits: list[Edit] = []
    path, search, replace, state = "", [""], [""], "outside"
    for line in text.split("\n"):
        mark = line.strip()
        if state == "outside":
            if mark == _SEARCH:
                if not path:
                    raise EditError("an edit without a file path before it")
                search, replace, state = [], [], "search"
            elif (
                mark and not mark.startswith("```") and (match := _PATH.fullmatch(line)) and _looks_like_path(match[1])
            ):
                path = match[1]
        elif state == "search":
            if mark == _DIVIDER:
                state = "replace"
            else:
                search.append(line)
        elif mark == _REPLACE:
            edits.append(Edit(path, "\n".join(search), "\n".join(replace)))
            state = "outside"
        else:
            replace.append(line)
    if state != "outside":
        raise EditError("an edit that doesn't end")
    if not edits:
        raise EditError("no SEARCH/REPLACE edit")
    return edits


def _looks_like_path(text: str) -> bool:
    return "/" in text or "." in text.strip(".")


def apply_edits(files: Mapping[str, str], edits: list[Edit]) -> dict[str, str]:
    """Return the files after the edits, in order; each replaces the first place where its lines stand.

    An empty SEARCH makes a new file.

    Raises:
        EditError: a file isn't among those shown, or the lines don't stand in it.
    """
    result = dict(files)
    for edit in edits:
        if not edit.search.strip():
            if result.get(edit.path, "").strip():
                raise EditError(f"an empty SEARCH in {edit.path}, which has content")
            result[edit.path] = edit.replace + "\n"
            continue
        if edit.path not in result:
            raise EditError(f"{edit.path} is not among the files shown")
        result[edit.path] = _replace_lines(result[edit.path], edit)
    return result


def _replace_lines(content: str, edit: Edit) -> str:
    """Replace whole lines: the lines of SEARCH must match without regard to trailing blanks."""
    lines, wanted = content.split("\n"), [line.rstrip() for line in edit.search.split("\n")]
    stripped = [line.rstrip() for line in lines]
    first = wanted[0]
    for start in (i for i, line in enumerate(stripped) if line == first):
        if stripped[start : start + len(wanted)] == wanted:
            replacement = edit.replace.split("\n") if edit.replace else []
            return "\n".join([*lines[:start], *replacement, *lines[start + len(wanted) :]])
    raise EditError(f"the SEARCH lines don't stand in {edit.path}: {edit.search[:80]!r}")
