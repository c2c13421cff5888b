"""A row as it lies in its file."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row, undecoded.

    Attributes:
        file: path of the file.
        line: line of a JSONL file, row of another, both from 1.
        payload: the undecoded line, or the row.
        size: bytes, about.
        problem: why it couldn't be read; the payload is empty then.
    """

    file: str
    line: int
    payload: bytes | dict[str, Any]
    size: int = 0
    problem: str | None = None

    @property
    def place(self) -> str:
        """Say where the row is, for people: `file:line`."""
        return f"{self.file}:{self.line}"
