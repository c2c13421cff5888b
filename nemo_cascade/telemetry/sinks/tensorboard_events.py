"""TensorBoard events, a folder for each stage below `tensorboard/`; needs the tensorboard package, not torch."""

import importlib
from collections.abc import Mapping
from typing import Any

from nemo_cascade.telemetry.sinks.sink import SinkRun


class TensorBoardSink:
    """Write each number as a scalar; the tag is the metric's name."""

    def __init__(self, run: SinkRun) -> None:
        self._summary = importlib.import_module("tensorboard.summary")
        self._folder = run.folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write one step."""
        if stage not in self._writers:
            self._writers[stage] = self._summary.Writer(str(self._folder / stage))
        for name, value in values.items():
            self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event files."""
        for writer in self._writers.values():
            writer.close()
