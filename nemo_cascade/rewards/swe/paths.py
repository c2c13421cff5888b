"""Names of files as answers write them: which line names one, and which can be written."""

import re
import unicodedata
from collections.abc import Collection

_LABEL = re.compile(r"(?:full |relative )?(?:file(?:[ _-]?(?:path|name))?|path)\s*:\s*", re.IGNORECASE)
_LEAD = re.compile(r"\s*(?:#{1,6}\s+|(?:---|\+\+\+)\s+|[-*+>]\s+|\d{1,3}[.)]\s+|//\s*)?")
_PLAIN = re.compile(r"[\w.@+-]+(?:/[\w.@+-]+)*")
_WRAPPING = "`*\"'"
_BARE_NAMES = frozenset(
    {"Dockerfile", "Gemfile", "Jenkinsfile", "LICENSE", "Makefile", "NOTICE", "Procfile", "Rakefile", "README"}
)
_ROOTS = ("./", "/testbed/", "/workspace/", "/repo/")
_MAX_LINE, _MAX_PATH, _MAX_PART = 500, 1000, 200


def named_path(line: str, known: Collection[str]) -> str | None:
    """Return the path that a line names, or None if it names none.

    A path stands alone on its line, or in a fence's info (`python src/a.py`). It may be a heading or a list's item, be
    set in backticks, asterisks or quotes, have a label before it (`File:`, `Path:`), a colon behind it, and what git or
    a container puts before a path (`a/`, `./`, `/testbed/`). A name among the known ones may look as it likes (have
    blanks, no dot and no slash).
    """
    if len(line) > _MAX_LINE:
        return None
    body = line.strip()
    if body.startswith(("```", "~~~")):
        name = body.strip("`~").strip()
        return _known(name, known) or (_known(name.partition(" ")[2].strip(), known) if " " in name else None)
    if path := _known(body, known):  # as it stands: a name may begin with a sign
        return path
    lead = _LEAD.match(line)
    name = _bare(line[lead.end() :] if lead else body)
    labelled = _LABEL.match(name)
    if labelled:
        name = _bare(name[labelled.end() :])
    if path := _known(name, known):
        return path
    name = _rootless(name)
    if lead is not None and lead[0].strip() in ("---", "+++"):
        name = name.removeprefix("a/").removeprefix("b/")
    looks = "/" in name or "." in name.strip(".") or name in _BARE_NAMES
    return name if looks and _PLAIN.fullmatch(name) else None


def unwritable(path: str, files: Collection[str]) -> str:
    """Say why no file of that path can stand beside the others in a folder of its own, or return an empty text."""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return f"{path[:200]!r} leaves the folder or names no file"
    if len(path) > _MAX_PATH or any(len(part.encode("utf-8", "replace")) > _MAX_PART for part in parts):
        return f"a path of {len(path)} characters"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        return f"{path[:200]!r} holds control characters"
    for count in range(1, len(parts)):
        if "/".join(parts[:count]) in files:
            return f"{'/'.join(parts[:count])} is a file, no folder"
    if any(other.startswith(f"{path}/") for other in files):
        return f"{path} is a folder, no file"
    return ""


def _bare(name: str) -> str:
    """Take off what marks a name: white space, quotes, emphasis, brackets, a colon behind it."""
    before = None
    while name != before:
        before = name
        name = name.strip().strip(_WRAPPING).rstrip(":")
        for opening, closing in ("[]", "()", "<>"):
            if name.startswith(opening) and name.endswith(closing):
                name = name[1:-1]
    return name


def _known(name: str, known: Collection[str]) -> str | None:
    """Return the known file that a name means."""
    if name in known:
        return name
    for short in (_rootless(name), name.removeprefix("a/"), name.removeprefix("b/")):
        if short in known:
            return short
    if not name.startswith("/"):
        return None
    above = [path for path in known if name.endswith(f"/{path}")]
    return max(above, key=len, default=None)


def _rootless(name: str) -> str:
    for root in _ROOTS:
        name = name.removeprefix(root)
    return name
