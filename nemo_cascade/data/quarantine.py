"""The rows of a stage's sources that aren't trained on because something is wrong with them, one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nemo_cascade.data.tokenised import TokenisedSet
from nemo_cascade.types import Int64

QUARANTINE = "quarantine.jsonl"
"""Beside the packed data: `file`, `line`, `kind` (broken | untrainable | overlong), `reason`."""


def write_quarantine(file: Path, tokenised: TokenisedSet, overlong: Int64) -> None:
    """Write all bad rows, and the samples that were dropped for their length; an empty file says there are none."""
    with file.open("w", encoding="utf-8") as stream:
        for name, line, kind, reason in tokenised.all_bad_rows():
            _write_row(stream.write, name, line, kind, reason)
        for sample in overlong.tolist():
            length = tokenised.samples[sample]["length"]
            _write_row(stream.write, *tokenised.origin(sample), "overlong", f"{length} tokens")


def _write_row(write: Callable[[str], int], name: str, line: int, kind: str, reason: str) -> None:
    write(json.dumps({"file": name, "line": line, "kind": kind, "reason": reason}, ensure_ascii=False) + "\n")
