"""Localisation reward: are the files that must change among those that the answer names?"""

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from nemo_cascade.rewards.code.block import code_blocks
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.swe.edits import solution_part
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_ROW = {"gold_files": ["src/a.py", "src/b.py"]}
_ITEM = re.compile(r"\s*(?:[-*+#]{1,4}|\d{1,3}[.)])?\s*[`*\"']{0,3}([\w.@+-]+(?:/[\w.@+-]+)*)[`*\"',:]{0,4}\s*")
_TOKEN = re.compile(r"(?<![\w./@+-])(?:\.{0,2}/)?[\w.@+-]+(?:/[\w.@+-]+)*")
_ROOT = re.compile(r"(?:\./|/testbed/|/workspace/|/repo/)+")
# Endings of files of a repository. Without them `os.path` and `e.g` in a sentence would be files.
_ENDINGS = frozenset({
    "bat", "c", "cc", "cfg", "cmake", "conf", "cpp", "cs", "css", "csv", "cxx", "dart", "ejs", "erl", "ex", "exs",
    "f90", "go", "gradle", "h", "hh", "hpp", "hs", "html", "hxx", "in", "ini", "ipynb", "java", "jl", "js", "json",
    "jsx", "kt", "less", "lock", "lua", "m", "md", "mjs", "ml", "php", "pl", "po", "pro", "properties", "proto",
    "ps1", "pxd", "py", "pyi", "pyx", "r", "rb", "rs", "rst", "sass", "sbt", "scala", "scss", "sh", "sql", "styl",
    "svelte", "swift", "tcl", "tex", "tf", "toml", "ts", "tsx", "txt", "vb", "vue", "xml", "yaml", "yml", "zig",
})  # fmt: skip
_MAX_NAMED = 1000
_MAX_CHARS = 1_000_000


class LocalizeVerifier:
    """Score the file names in an answer against the row's `gold_files`.

    The names stand in the last code block that names any, or in `<solution>` tags, or else anywhere in the answer; one
    a line or within sentences, in lists, JSON or tables; with line numbers or members behind them (`src/a.py:12-20`,
    `src/a.py::f`) or the container's folder before them (`/testbed/`). The paper (arXiv 2512.13607, section 4.7) scores
    the files alone, so what stands beside a name costs nothing. A name without a path or an ending of source counts
    where it has a line for itself, or is a gold file's.

    Args:
        metric: recall (share of the gold files that are named), precision (share of the named that are gold), or f1.
        max_files: an answer that names more scores 0: naming everything is no localisation.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>src/x.py</think>\n```\nsrc/a.py\nsrc/b.py\n```", 1.0, _ROW),
        Golden("<solution>\n1. `src/a.py`\n2. src/c.py\n</solution>", 0.5, _ROW),
        Golden("It is in `src/a.py:7`, and in src/b.py.", 1.0, _ROW),
        Golden("I don't know", 0.0, _ROW),
        Golden("<think>src/a.py", 0.0, _ROW),
        Golden("src/a.py", None, {}, error="record"),
    )

    def __init__(self, metric: Literal["recall", "precision", "f1"] = "recall", max_files: int = 10) -> None:
        self._metric, self._max_files = metric, max_files

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward in [0, 1]; see `Verifier.verify`."""
        gold = {str(path) for path in field_of(record, "gold_files", list)}
        if not gold:
            raise VerifierError("record", "field 'gold_files' is empty")
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        if len(answer) > _MAX_CHARS:
            return Score(0.0, f"an answer of {len(answer)} characters")
        named = named_files(answer, gold)
        if len(named) > self._max_files:
            return Score(0.0, f"{len(named)} files named, at most {self._max_files}")
        recall, precision = recall_and_precision(named, gold)
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        score = {"recall": recall, "precision": precision, "f1": f1}[self._metric]
        return Score(score, f"recall {recall:.2f}, precision {precision:.2f}")


def named_files(answer: str, gold: Collection[str]) -> set[str]:
    """Return the paths that an answer names, at most `_MAX_NAMED` of them."""
    part = solution_part(answer)
    for block in reversed(code_blocks(part)):
        if named := _paths(block.text, gold):
            return named
    return _paths(part, gold)


def _paths(text: str, gold: Collection[str]) -> set[str]:
    found: set[str] = set()
    for line in text.split("\n"):
        alone = _ITEM.fullmatch(line) if len(line) <= 500 else None
        tokens = [match[0].rstrip(".") for match in _TOKEN.finditer(line)]
        paths = {_repository_path(token, gold) for token in tokens if _names_file(token) or token in gold}
        paths |= {path for path in gold if " " in path and path in line}
        if not paths and alone and ("/" in alone[1] or "." in alone[1].strip(".")):
            paths = {_repository_path(alone[1], gold)}
        found |= paths
        if len(found) >= _MAX_NAMED:
            break
    return found


def _names_file(token: str) -> bool:
    name, dot, ending = token.rpartition("/")[2].rpartition(".")
    return bool(dot and (name or "/" in token)) and ending.lower() in _ENDINGS


def _repository_path(token: str, gold: Collection[str]) -> str:
    """Return a path as it is from the repository's root."""
    path = _ROOT.sub("", token, count=1) if _ROOT.match(token) else token
    if path.startswith("/"):
        return max((known for known in gold if path.endswith(f"/{known}")), key=len, default=path)
    return path


def recall_and_precision(named: set[str], gold: set[str]) -> tuple[float, float]:
    """Return (share of the gold files that are named, share of the named files that are gold)."""
    hits = len(named & gold)
    return hits / len(gold), hits / len(named) if named else 0.0
