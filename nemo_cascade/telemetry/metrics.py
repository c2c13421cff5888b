"""The metrics of a stage: one JSON line per step, exact and resumable."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.errors import RunFolderError, TrainingError
from nemo_cascade.storage.jsonl import append_line, read_lines, repair_tail, replace_lines


class MetricsLog:
    """Append-only `metrics.jsonl`: lines {"step": 1, ...} with steps that rise from 1.

    Floats are written with the digits that read back to the same bits, so two runs can be compared for equality.

    Args:
        path: the file; it is made with the first line. An incomplete last line (a crash) is dropped.
        watch: is told every step with its line, once that is on file; what it raises goes on to the caller.

    Raises:
        RunFolderError: the file holds a damaged line, or steps that don't rise.
    """

    def __init__(
        self,
        path: Path,
        watch: Callable[[int, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.path, self._watch = path, watch
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_tail(path)
        records = read_metrics(path)
        self._last_step = int(records[-1]["step"]) if records else 0

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one step.

        Args:
            step: counts from 1; greater than any step on file.
            values: numbers, booleans, strings, None (not measured in this step), or such by name, as deep as it takes.

        Raises:
            TrainingError: a value is NaN or infinite, by name; or the step doesn't rise.
        """
        if step <= self._last_step:
            raise TrainingError(
                "metrics are logged once per step, in order",
                value=step,
                limit=f"> {self._last_step}",
                mend="on resume call truncate_from(first step to be repeated)",
            )
        record: dict[str, Any] = {"step": int(step)}
        for name, value in values.items():
            record[name] = _plain(name, value)
        append_line(self.path, record)
        self._last_step = step
        if self._watch is not None:
            self._watch(step, record)

    def truncate_from(self, step: int) -> int:
        """Drop all lines of `step` and later in one atomic replacement, as a resume from an earlier checkpoint needs.

        Returns:
            The number of lines dropped.
        """
        records = self.read()
        kept = [record for record in records if record["step"] < step]
        if len(kept) < len(records):
            replace_lines(self.path, kept)
        self._last_step = int(kept[-1]["step"]) if kept else 0
        return len(records) - len(kept)

    def read(self) -> list[dict[str, Any]]:
        """Return all lines in order."""
        return read_metrics(self.path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file, without an incomplete last line; an absent file has no lines.

    Raises:
        RunFolderError: a line is damaged, or the steps don't rise.
    """
    records, last = [], 0
    for number, record in read_lines(path):
        step = record.get("step")
        if not isinstance(step, int) or step <= last:
            raise RunFolderError(f"line {number} of {path} has a wrong step", value=step, limit=f"> {last}")
        records.append(record)
        last = step
    return records


def _plain(name: str, value: Any) -> dict[str, Any] | float | int | str | bool | None:
    if isinstance(value, Mapping):
        return {key: _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if not isinstance(value, float):
        raise TrainingError(f"the metric `{name}` isn't a number", value=type(value).__name__)
    if not math.isfinite(value):
        raise TrainingError(
            f"the metric `{name}` isn't finite",
            value=value,
            mend="log None for a step in which it couldn't be measured; otherwise find out where it comes from",
        )
    return value
