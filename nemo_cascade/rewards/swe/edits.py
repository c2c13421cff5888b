"""Read SEARCH/REPLACE edits out of an answer and apply them to the files that the prompt showed.

(arXiv 2512.13607, appendix C.2: reasoning in <think>, edits in <solution>, each with its file's path.)
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from nemo_cascade.rewards.swe.paths import named_path, unwritable

_SOLUTION = re.compile(r"<solution>(.*?)</solution>", re.DOTALL)
_SEARCH, _DIVIDER, _REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_MAX_CHARS = 1_000_000
# Characters of files that the edits of one answer may search, so that many edits of a large file end in time.
_MAX_SEARCHED = 100_000_000
_MAX_EDITS = 2000
_MAX_READINGS = 20

Lines = tuple[str, ...]


class EditError(Exception):
    """An answer whose edits can't be read or don't fit the files: the policy's mistake."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one file.

    Attributes:
        path: of the file.
        search: lines up to the first divider, without their ends.
        replace: lines after it; none at all deletes, one empty line is a blank line.
    """

    path: str
    search: Lines
    replace: Lines

    def readings(self) -> Iterator[tuple[Lines, Lines]]:
        """Yield (search, replace) for each line that may be the divider (of the first few), the last such line first.

        A line of seven equals signs is also how a heading of reStructuredText is underlined.
        """
        body = (*self.search, _DIVIDER, *self.replace)
        dividers = (index for index in range(len(self.search), len(body)) if body[index].strip() == _DIVIDER)
        for index in reversed(list(islice(dividers, _MAX_READINGS))):
            yield body[:index], body[index + 1 :]


def solution_part(answer: str) -> str:
    """Return what stands in the last `<solution>` tags, or the whole answer if there are none."""
    if answer.count("<solution>") > 100:
        return answer
    found = _SOLUTION.findall(answer)
    return found[-1] if found else answer


def parse_edits(answer: str, files: Mapping[str, str] | None = None) -> list[Edit]:
    """Return the edits of an answer, in order, each once however often it stands there.

    An edit is `<<<<<<< SEARCH`, lines, `=======`, lines, `>>>>>>> REPLACE`, each marker alone on its line; the file's
    path stands on a line before it (`### path/to/file.py`, see `named_path`) and holds until the next path. Carriage
    returns at the ends of lines don't count: a prompt can't show them.

    An edit that is written twice is made once, as NeMo Gym's `swerl_gen` does, which the paper trained with.

    Args:
        answer: the text after the reasoning.
        files: those that the prompt showed; a name among them is a path however odd it looks.

    Raises:
        EditError: there is no edit, one doesn't end, or one has no path.
    """
    text = solution_part(answer)
    if len(text) > _MAX_CHARS:
        raise EditError(f"an answer of {len(text)} characters")
    edits: dict[Edit, None] = {}
    path, search, replace, state = "", [""], [""], "outside"
    for line in text.split("\n"):
        line, mark = line.rstrip("\r"), line.strip()
        if state == "outside":
            if mark == _SEARCH:
                if not path:
                    raise EditError("an edit without a file path before it")
                search, replace, state = [], [], "search"
            else:
                path = named_path(line, files or {}) or path
        elif state == "search":
            if mark == _DIVIDER:
                state = "replace"
            else:
                search.append(line)
        elif mark == _REPLACE:
            edits[Edit(path, tuple(search), tuple(replace))] = None
            state = "outside"
        else:
            replace.append(line)
    if state != "outside":
        raise EditError("an edit that doesn't end")
    if not edits:
        raise EditError("no SEARCH/REPLACE edit")
    if len(edits) > _MAX_EDITS:
        raise EditError(f"{len(edits)} edits")
    return list(edits)


def apply_edits(files: Mapping[str, str], edits: list[Edit]) -> dict[str, str]:
    """Return the files after the edits, in order; each replaces the first place where its lines stand.

    An empty SEARCH makes a new file. Where several lines may be an edit's divider, the longest SEARCH that stands in
    the file is meant. New lines end as the file's lines end (LF or CRLF).

    Raises:
        EditError: a file isn't among those shown or couldn't be written, or the lines don't stand in it.
    """
    result = dict(files)
    searched = 0
    for edit in edits:
        if not any(line.strip() for line in edit.search):
            if result.get(edit.path, "").strip():
                raise EditError(f"an empty SEARCH in {edit.path}, which has content")
            if edit.path not in result and (problem := unwritable(edit.path, result)):
                raise EditError(f"no file can be made: {problem}")
            result[edit.path] = "".join(f"{line}\n" for line in edit.replace)
            continue
        if edit.path not in result:
            raise EditError(f"{edit.path[:200]} is not among the files shown")
        searched += len(result[edit.path])
        if searched > _MAX_SEARCHED:
            raise EditError(f"more than {_MAX_SEARCHED} characters to search")
        result[edit.path] = _replace_lines(result[edit.path], edit)
    return result


def _replace_lines(content: str, edit: Edit) -> str:
    """Replace whole lines: the lines of SEARCH must match without regard to trailing blanks."""
    lines = content.split("\n")
    text = "\n".join(["", *(line.rstrip() for line in lines), ""])
    for search, replace in edit.readings():
        # Finding the text of all lines takes time linear in the file, comparing them place by place does not.
        found = text.find("\n".join(["", *(line.rstrip() for line in search), ""]))
        if found >= 0:
            start = text.count("\n", 0, found)
            old = lines[start : start + len(search)]
            ending = "\r" if sum(line.endswith("\r") for line in old) * 2 > len(old) else ""
            return "\n".join([*lines[:start], *(line + ending for line in replace), *lines[start + len(search) :]])
    raise EditError(f"the SEARCH lines don't stand in {edit.path}: {' / '.join(edit.search)[:80]!r}")
