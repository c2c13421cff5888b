"""What a script or notebook does with runs: plan them, run them, read what they left, as tables."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.ledger import read_ledger
from nemo_cascade.config.reading.provenance import read_config
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import RunFolderError
from nemo_cascade.report.story import outcome_line
from nemo_cascade.telemetry.metrics import read_metrics

if TYPE_CHECKING:
    from nemo_cascade.cascade.decision import Decision
    from nemo_cascade.cli.preflight import Preflight


class Run:
    """A run folder, read only; a run that goes on may be looked at.

    Tables are pyarrow's: `.to_pandas()`, `.to_pylist()`, or given to DuckDB and polars as they are.

    Attributes:
        folder: its paths.
        config: its configuration.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.folder, self.config = folder, config

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open a run folder.

        Raises:
            RunFolderError: it is none.
        """
        folder = RunFolder(Path(path))
        return cls(folder, read_config(folder.path))

    @property
    def stages(self) -> list[str]:
        """Its stages so far, in order; the start model is `start`."""
        return [place.name for place in self.folder.stages()]

    @property
    def outcome(self) -> str:
        """What became of its stages, in a line."""
        return outcome_line(read_ledger(self.folder.ledger), list(self.config.stages))

    def scores(self) -> pa.Table:
        """Return a row for each stage and domain: stage, domain, score, n, stderr, ..."""
        scores: dict[str, dict[str, Any]] = {}
        if self.folder.scores.is_file():
            scores = json.loads(self.folder.scores.read_text(encoding="utf-8"))
        return _table(
            {"stage": stage, "domain": domain, **values}
            for stage, domains in scores.items()
            for domain, values in domains.items()
        )

    def gates(self) -> pa.Table:
        """Return a row for each comparison that a gate made: stage, outcome, domain, scores, difference, p, ..."""
        rows = []
        for place in self.folder.stages():
            if place.gate.is_file():
                gate = json.loads(place.gate.read_text(encoding="utf-8"))
                rows += [{"stage": place.name, "outcome": gate["outcome"], **row} for row in gate["rows"]]
        return _table(rows)

    def metrics(self, stage: str) -> pa.Table:
        """Return a row for each step of a stage."""
        return _table(read_metrics(self._place(stage).metrics))

    def steps_with_rollouts(self, stage: str) -> list[int]:
        """Return the steps of which rollouts were kept."""
        files = sorted(self._place(stage).rollouts.glob("step_*.jsonl.gz"))
        return [int(path.name.removeprefix("step_").partition(".")[0]) for path in files]

    def rollouts(self, stage: str, step: int) -> pa.Table:
        """Return the kept rollouts of a step: prompt, response, reward, advantage, error, ...

        Raises:
            RunFolderError: none were kept of that step.
        """
        path = self._place(stage).rollouts / f"step_{step:06d}.jsonl.gz"
        if not path.is_file():
            kept = ", ".join(map(str, self.steps_with_rollouts(stage))) or "none"
            raise RunFolderError(
                f"no rollouts of {stage} were kept of that step", value=step, limit=kept, mend="name one of these steps"
            )
        return _table(json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines())

    def ledger(self) -> pa.Table:
        """Return a row for each event: number, time, event, stage, and its details as JSON."""
        return _table(
            {"number": r.number, "time": r.time, "event": r.event, "stage": r.stage, "details": json.dumps(r.details)}
            for r in read_ledger(self.folder.ledger)
        )

    def _place(self, stage: str) -> StageFolder:
        for place in self.folder.stages():
            if place.name == stage:
                return place
        raise RunFolderError(
            "the run has no such stage yet", value=stage, limit=", ".join(self.stages), mend="name one of these"
        )


def plan(*overrides: str, config_dir: str | Path | None = None) -> Preflight:
    """Check a run and return its plan; what this machine lacks for it is `lacking`, not refused.

    Args:
        overrides: as on the command line, `cascade=nano`.
        config_dir: your own config files.

    Raises:
        ConfigError: lists everything that makes it impossible.
    """
    from nemo_cascade.cli.preflight import preflight

    return preflight(overrides, None if config_dir is None else Path(config_dir), elsewhere=True)


def run(
    *overrides: str,
    config_dir: str | Path | None = None,
    on_step: Callable[[str, int, Mapping[str, Any]], None] | None = None,
    on_stage: Callable[[str, Decision], None] | None = None,
) -> Run:
    """Run a cascade, or go on with it where its folder stands; return what it left.

    Args:
        overrides: as on the command line.
        config_dir: your own config files.
        on_step: is called with stage, step and that step's metrics; what it raises stops the run.
        on_stage: is called with stage and the gate's decision.

    Raises:
        ConfigError: lists everything that makes it impossible.
        CascadeError: what stopped it. A run that its gate holds is returned, `outcome` tells.
    """
    from nemo_cascade.cascade.runner import Watchers, run_cascade
    from nemo_cascade.cli.preflight import preflight

    ready = preflight(overrides, None if config_dir is None else Path(config_dir))
    run_cascade(ready.config, ready.provenance, Watchers(on_step, on_stage))
    return Run(RunFolder(ready.folder), ready.config)


def _table(rows: Any) -> pa.Table:
    """Return rows as a table; a column has the keys' union, null where a row lacks one."""
    listed: Sequence[dict[str, Any]] = list(rows)
    names = dict.fromkeys(key for row in listed for key in row)
    return pa.table({name: [row.get(name) for row in listed] for name in names})
