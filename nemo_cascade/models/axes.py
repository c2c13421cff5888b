"""A rank's place in the layout, axis by axis, as models and weights are told it; import-light.

The names: tp tensor, pp pipeline, cp context, dp data parallel, dp_cp both of these together; stage: all ranks of a
pipeline stage. Of experts: ep which of them, etp tensor parallel, edp replicas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the layout, seen from this rank.

    Attributes:
        rank: this rank's place on it.
        size: ranks on it.
        group: their process group.
        ranks: their global ranks, in order.
    """

    rank: int
    size: int
    group: Any
    ranks: tuple[int, ...]

    @property
    def first(self) -> bool:
        """Whether this rank is the first on the axis."""
        return self.rank == 0

    @property
    def last(self) -> bool:
        """Whether this rank is the last on the axis."""
        return self.rank == self.size - 1


Axes = Mapping[str, Axis]
"""A rank's place, by the axes' names."""
