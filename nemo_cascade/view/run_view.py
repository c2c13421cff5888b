"""What the page is told of one run, read from its folder alone; any state of it, any time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.ledger import Record, read_ledger
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import CascadeError, RunFolderError
from nemo_cascade.report.came_out import came_out
from nemo_cascade.report.curves import SPECS
from nemo_cascade.report.matrix import Cell, collect_matrix
from nemo_cascade.report.samples import read_rollouts
from nemo_cascade.report.story import OUTCOME_WORDS, held_stage, outcome_line, ways_on
from nemo_cascade.telemetry.metrics import read_metrics
from nemo_cascade.telemetry.timers import PHASES
from nemo_cascade.view.rollout_index import RolloutIndex, Wanted, rollout_files

MOST_POINTS = 600


class RunView:
    """One run, for the page.

    Args:
        folder: the run.
        index: of its rollouts.
    """

    def __init__(self, folder: RunFolder, index: RolloutIndex) -> None:
        self.folder, self.index = folder, index
        self._metrics: dict[Path, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def state(self) -> str:
        """Return what changes whenever there is something new: sizes and times of the files that are shown."""
        files = [self.folder.ledger, self.folder.scores, *(stage.metrics for stage in self.folder.stages())]
        return "-".join(f"{s.st_mtime_ns}.{s.st_size}" for s in (file.stat() for file in files if file.is_file()))

    def overview(self) -> dict[str, Any]:
        """Return scores, gates, findings, stages and facts; a part that can't be read is told in `notices`."""
        notices: list[str] = []
        records = _or(lambda: read_ledger(self.folder.ledger), [], notices)
        matrix = _or(lambda: collect_matrix(self.folder), None, notices)
        config = _or(self.folder.stored_config, {}, notices)
        held = _or(lambda: held_stage(self.folder) if self.folder.ledger.is_file() else None, None, notices)
        planned = config.get("stages")
        names = list(planned) if isinstance(planned, Mapping) else []
        rows = [] if matrix is None else matrix.rows
        return {
            "name": self.folder.name,
            "path": str(self.folder.path.absolute()),
            "state": _run_state(records, held),
            "outcome": outcome_line(records, names),
            "planned": names,
            "stages": [self._stage(stage, records) for stage in self.folder.stages()],
            "domains": [] if matrix is None else list(matrix.domains),
            "matrix": [
                {
                    "stage": row.stage,
                    "gate": row.decision.outcome if row.decision else None,
                    "reasons": list(row.decision.reasons) if row.decision else [],
                    "model": row.decision.model if row.decision else None,
                    "cells": {domain: _cell(cell) for domain, cell in row.cells.items()},
                }
                for row in rows
            ],
            "findings": [] if matrix is None else came_out(matrix),
            "ways": ways_on(self.folder, held[0]) if held else [],
            "notices": notices,
        }

    def _stage(self, stage: StageFolder, records: Sequence[Record]) -> dict[str, Any]:
        lines = self._lines(stage)
        own = [record for record in records if record.stage == stage.name]
        decided = [r.details.get("outcome") for r in own if r.event == "decided"]
        state = OUTCOME_WORDS.get(str(decided[-1]), "decided") if decided else (own[-1].event if own else "")
        steps = rollout_files(stage)
        return {
            "name": stage.name,
            "index": stage.index,
            "state": "" if stage.name == START else state.replace("_", " "),
            "steps": lines[-1]["step"] if lines else 0,
            "seconds": sum(sum(_seconds(line).values()) for line in lines),
            "rollout_steps": [step for step, _ in steps],
        }

    def place(self, name: str) -> StageFolder:
        """Return a stage's folder.

        Raises:
            RunFolderError: the run has none of that name.
        """
        for stage in self.folder.stages():
            if stage.name == name:
                return stage
        raise RunFolderError("the run has no such stage yet", value=name, mend="name one that the page lists")

    def _lines(self, stage: StageFolder) -> list[dict[str, Any]]:
        if not stage.metrics.is_file():
            return []
        stat = stage.metrics.stat()
        key = (stat.st_mtime_ns, stat.st_size)
        if stage.metrics not in self._metrics or self._metrics[stage.metrics][0] != key:
            self._metrics[stage.metrics] = (key, read_metrics(stage.metrics))
        return self._metrics[stage.metrics][1]

    def curves(self, name: str) -> dict[str, Any]:
        """Return a stage's charts, each at most MOST_POINTS points (means of neighbours), and the errors by kind."""
        lines = self._lines(self.place(name))
        steps = np.array([line["step"] for line in lines], dtype=np.float64)
        charts = []
        for spec in SPECS:
            curves = {label: _thinned(steps, lines, metric) for metric, label in spec.curves.items()}
            curves = {label: points for label, points in curves.items() if points}
            if curves:
                charts.append({"title": spec.title, "unit": spec.unit, "log": spec.log, "curves": curves})
        errors: dict[str, int] = {}
        for line in lines:
            for kind, count in (line.get("verdict_errors_by_kind") or {}).items():
                errors[kind] = errors.get(kind, 0) + int(count)
        return {"charts": charts, "errors": errors, "steps": len(lines)}

    def timeline(self, name: str, first: int, count: int) -> dict[str, Any]:
        """Return the seconds of each phase, step by step, from step number `first` on."""
        lines = [line for line in self._lines(self.place(name)) if line["step"] >= first][:count]
        rows = [{"step": line["step"], "seconds": _seconds(line)} for line in lines]
        return {"phases": [p for p in PHASES if any(p in row["seconds"] for row in rows)], "rows": rows}

    def rollouts(self, wanted: Wanted, sort: str, offset: int, limit: int) -> dict[str, Any]:
        """Return a page of rollouts, from the index."""
        steps = [step for step, _ in rollout_files(self.place(wanted.stage))]
        # At the very first, the newest step is there at once, however many wait.
        if newest := ([wanted.step] if wanted.step is not None else steps[-1:]):
            self.index.take_step(wanted.stage, newest[0])
        rows, total = self.index.page(wanted, sort, offset, limit)
        return {"rows": rows, "total": total, "waiting": len(self.index.missing())}

    def rollout(self, stage: str, step: int, row: int) -> dict[str, Any]:
        """Return one rollout, whole.

        Raises:
            RunFolderError: there is none, or its file can't be read.
        """
        for found, path in rollout_files(self.place(stage)):
            if found == step:
                lines = read_rollouts(path)
                if 0 <= row < len(lines):
                    return lines[row]
        raise RunFolderError(
            "no such rollout was kept", value=f"{stage}, step {step}, row {row}", mend="name one that the page lists"
        )

    def prompts(self, stage: str, offset: int, limit: int) -> dict[str, Any]:
        """Return the prompts' mean rewards over the steps."""
        rows, total = self.index.prompts(stage, offset, limit)
        return {"rows": rows, "total": total}

    def ledger(self) -> dict[str, Any]:
        """Return every event, newest first."""
        return {"rows": [asdict(record) for record in reversed(read_ledger(self.folder.ledger))]}


def _or(part: Any, otherwise: Any, notices: list[str]) -> Any:
    try:
        return part()
    except (CascadeError, OSError, ValueError, KeyError, TypeError) as error:
        notices.append(str(error))
        return otherwise


def _run_state(records: Sequence[Record], held: Any) -> str:
    ends = [r.event for r in records if r.event in ("run_started", "run_stopped", "run_finished")]
    if held:
        return "held"
    words = {"run_started": "running, or killed", "run_stopped": "stopped", "run_finished": "finished"}
    return words[ends[-1]] if ends else "not started"


def _cell(cell: Cell) -> dict[str, Any]:
    row = cell.row
    compared = None if row is None else {"difference": row.difference, "low": row.low, "high": row.high}
    told = {"score": cell.score, "stderr": cell.stderr, "n": cell.n, "tone": cell.tone, "compared": compared}
    return {**told, "verdict": row.verdict if row else None, "promise": row.promise if row else None}


def _seconds(line: Mapping[str, Any]) -> dict[str, float]:
    seconds = line.get("seconds")
    return {k: float(v) for k, v in seconds.items()} if isinstance(seconds, Mapping) else {}


def _thinned(steps: Any, lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Return (step, value) of a metric, neighbours averaged where there are more than MOST_POINTS."""
    found = [
        (s, line[metric]) for s, line in zip(steps, lines, strict=True) if isinstance(line.get(metric), int | float)
    ]
    if len(found) <= MOST_POINTS:
        return [(float(s), float(v)) for s, v in found]
    parts = np.array_split(np.array(found, dtype=np.float64), MOST_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def as_json(value: Any) -> bytes:
    """Return a value as JSON; what isn't finite is null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
