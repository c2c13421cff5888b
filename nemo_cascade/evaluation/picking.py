"""Which of several patches for one issue to hand in, told by what is known of them without their hidden tests.

Agentless' order (arXiv 2407.01489, section 3.3; arXiv 2512.13607, section 4.7, for best@k): of the patches that fit and
change something those that break the fewest of the repository's own tests; of these those that make the most
reproduction tests pass; of these the one that most of them say, a comment or a line break more or less aside; of equals
the shortest.
"""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_cascade.rewards.swe.unified_diff import file_diffs

Saying = tuple[tuple[str, str], ...]
"""What a patch says: path -> content, of each file that it changes, without what changes no behaviour."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A patch that fits.

    Attributes:
        sample: which of the prompt's samples it is.
        says: what it makes of the files that it changes.
        length: characters of its unified diff.
        regression: share of the repository's own tests that pass after it; 0 where nobody could tell.
        reproduced: reproduction tests that pass after it and fail before.
    """

    sample: int
    says: Saying
    length: int
    regression: float = 0.0
    reproduced: int = 0


def candidate(sample: int, files: Mapping[str, str], patched: Mapping[str, str]) -> Candidate | None:
    """Return the candidate that a patch is, yet to be validated; None where it changes no file."""
    diffs = file_diffs(files, patched)
    if not diffs:
        return None
    says = tuple((path, _bare(path, patched.get(path))) for path in sorted(diffs))
    return Candidate(sample, says, sum(map(len, diffs.values())))


def picked(candidates: Sequence[Candidate]) -> Candidate:
    """Return the patch to hand in, of at least one."""
    unbroken = _best(candidates, [one.regression for one in candidates])
    reproducing = _best(unbroken, [one.reproduced for one in unbroken])
    votes = Counter(one.says for one in reproducing)
    return min(reproducing, key=lambda one: (-votes[one.says], one.length, one.sample))


def _best(candidates: Sequence[Candidate], values: Sequence[float]) -> list[Candidate]:
    return [one for one, value in zip(candidates, values, strict=True) if value == max(values)]


def _bare(path: str, text: str | None) -> str:
    """Return a file's content without comments, docstrings and layout where it is Python, else without line ends."""
    if text is None:
        return ""
    if path.endswith(".py"):
        try:
            return ast.unparse(_undocumented(ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def _undocumented(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
