"""The rows of a stage's sources that aren't used because something is wrong with them, one JSON line each."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_cascade.data.sft.tokenised import TokenisedSet
from nemo_cascade.storage.jsonl import replace_lines
from nemo_cascade.types import Int64

QUARANTINE = "quarantine.jsonl"
"""Beside packed data, the rows that aren't in it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that isn't used.

    Attributes:
        file: where it is.
        line: line of a JSONL file, row of another, from 1.
        kind: broken, untrainable, unusable or overlong.
        reason: what is wrong with it.
    """

    file: str
    line: int
    kind: str
    reason: str


def bad_rows(tokenised: TokenisedSet, overlong: Int64) -> Iterator[BadRow]:
    """Yield all rows that are no samples, and the samples that were dropped for their length."""
    for name, line, kind, reason in tokenised.all_bad_rows():
        yield BadRow(name, line, kind, reason)
    for sample in overlong.tolist():
        name, line = tokenised.origin(sample)
        yield BadRow(name, line, "overlong", f"{tokenised.samples[sample]['length']} tokens")


def write_bad_rows(file: Path, rows: Iterable[BadRow]) -> None:
    """List bad rows in a JSONL file, which is complete or as it was before; an empty one says there are none."""
    replace_lines(file, map(asdict, rows))
