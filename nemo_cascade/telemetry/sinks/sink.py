"""What a sink is. A user's own has the same form and is named `my_sink.py:Name` in `logging.sinks`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class SinkRun:
    """The run that a sink is told of.

    Attributes:
        name: of the run.
        folder: the run folder; a sink keeps what it needs to go on after a resume below it.
        config: the configuration, as in config.yaml.
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """A place for metrics. Its constructor takes a SinkRun, and its settings by name.

    It works in a process of its own: what it raises, and how long it takes, is no matter to the run.
    """

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Take one step of a stage: metric's name (as `flat` says) -> value.

        Steps rise, but for a resumed run's, which are made again and come again.
        """

    def close(self) -> None:
        """Write what is left; the run has ended."""


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Return a line of metrics.jsonl as numbers by name, the same names for every sink.

    `seconds: {train: 1.2}` becomes `seconds/train`; strings and what wasn't measured are left out, and the step itself.
    """
    return {name: value for name, value in _numbers(values, "") if name != "step"}


def _numbers(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, bool | int | float):
            yield f"{above}{name}", float(value)
