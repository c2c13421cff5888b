"""Weights & Biases: one run, a section for each stage; offline by default, below the run folder."""

import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

from nemo_cascade.telemetry.sinks.sink import SinkRun


class WandbSink:
    """Log `stage/metric` over `stage/step`.

    Args:
        run: the run.
        project: W&B's project.
        entity: user or team; None: the key's own.
        mode: offline: files to be sent later by `wandb sync`; online.
    """

    def __init__(
        self, run: SinkRun, project: str = "nemo-cascade", entity: str | None = None, mode: str = "offline"
    ) -> None:
        wandb = importlib.import_module("wandb")
        # The same run folder is the same W&B run, however often it is resumed.
        key = hashlib.sha256(str(run.folder.absolute()).encode()).hexdigest()[:16]
        self._run: Any = wandb.init(
            project=project,
            entity=entity,
            name=run.name,
            id=key,
            resume="allow" if mode == "online" else None,
            dir=str(run.folder),
            mode=mode,
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()
