"""TensorBoard events beside metrics.jsonl (`logging.tensorboard`); needs the tensorboard package, not torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RuntimeUnavailableError


class TensorBoardSink:
    """Write each number as a scalar; nested values get the tag `name/key`.

    Raises:
        RuntimeUnavailableError: the tensorboard package isn't installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            summary = importlib.import_module("tensorboard.summary")
        except ImportError as error:
            raise RuntimeUnavailableError(
                "logging.tensorboard needs the package tensorboard, which isn't installed",
                value=str(error),
                mend="install tensorboard or set logging.tensorboard=false",
            ) from error
        self._writer = summary.Writer(str(folder))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one step's numbers; strings and None have no place in a scalar plot."""
        for name, value in values.items():
            pairs = (
                [(f"{name}/{key}", inner) for key, inner in value.items()]
                if isinstance(value, Mapping)
                else [(name, value)]
            )
            for tag, number in pairs:
                if isinstance(number, bool | int | float) and tag != "step":
                    self._writer.add_scalar(tag, float(number), step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
