"""The half of a stage kind that works: what it reads, made before the run starts, and its loop.

The light half is its config class (config/stages); `KINDS` in stages/kinds.py names both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.stages.context import StageContext

Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Source]):
    """What a stage trains on.

    Attributes:
        source: the data, as its loop takes them.
        steps: optimizer steps of the stage, at most.
        told: how much there is, in a line.
        stats: counts of packed data; `domains` has them by domain.
        folder: where packed data lie.
    """

    source: Source
    steps: int
    told: str
    stats: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind.

    Attributes:
        prepare: (run, stage's name, its config, HF folder that it starts from, folder of tokenised data) -> Prepared;
            the same data are found again, not made anew. Raises CascadeError for what can't be trained on.
        run: trains the stage to its end, from wherever its folder says it stands.
    """

    prepare: Callable[[RunConfig, str, Any, Path, Path], Prepared[Any]]
    run: Callable[[StageContext, Any], None]
