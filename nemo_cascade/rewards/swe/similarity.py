"""How alike two patches are."""

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

_POSITION = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
# Above this product of lengths characters are too many to compare; lines are compared instead.
_MAX_CHARACTER_PRODUCT = 25_000_000
# Comparisons of two signs, about 3 s. Two real diffs of the size above take about 20 million, but difflib's time is
# cubic at worst, and one of the two texts is the policy's.
_MAX_STEPS = 30_000_000


class _TooLongError(Exception):
    """The comparison takes too many steps."""


class _Matcher(difflib.SequenceMatcher[str]):
    """difflib's matcher, which gives up after a number of steps.

    Raises:
        _TooLongError: from `ratio`, after too many steps.
    """

    def __init__(self, one: Sequence[str], two: Sequence[str]) -> None:
        super().__init__(None, one, two, autojunk=False)
        self._left = _MAX_STEPS
        self._steps = [0, *accumulate(len(self.b2j.get(item, ())) for item in one)]  # type: ignore[attr-defined]

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        """Find a match; see difflib."""
        end = len(self._steps) - 1 if ahi is None else ahi
        self._left -= self._steps[end] - self._steps[alo] + end - alo
        if self._left < 0:
            raise _TooLongError
        return super().find_longest_match(alo, ahi, blo, bhi)


def patch_similarity(ours: Mapping[str, str], golden: Mapping[str, str]) -> float:
    """Return the mean similarity in [0, 1] of the diffs of all files that either patch changes.

    The measure of a file is difflib's ratio of matching characters, without position numbers of hunks, so that the
    same change further down is the same change (Unidiff similarity, arXiv 2502.18449 and 2512.13607, section 4.7).
    Lines are compared where characters would take too long; diffs that are too long for that, too, have nothing alike.
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
        try:
            return _Matcher(one, two).ratio()
        except _TooLongError:
            pass
    try:
        return _Matcher(one.split("\n"), two.split("\n")).ratio()
    except _TooLongError:
        return 0.0
