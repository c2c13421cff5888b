"""How alike two patches are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

_POSITION = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
# Above this product of lengths characters are too many to compare; lines are compared instead.
_MAX_CHARACTER_PRODUCT = 25_000_000


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
    one, two = _POSITION.sub("@@", first), _POSITION.sub("@@", second)
    if one == two:
        return 1.0
    if not one or not two:
        return 0.0
    if len(one) * len(two) <= _MAX_CHARACTER_PRODUCT:
        return difflib.SequenceMatcher(None, one, two, autojunk=False).ratio()
    return difflib.SequenceMatcher(None, one.split("\n"), two.split("\n"), autojunk=False).ratio()
