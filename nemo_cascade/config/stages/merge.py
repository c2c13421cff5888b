"""A model made of others' weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.stages.base import DataUse, ModelUse, Problems, StageBase, StageSize, policies_by_then
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


@block
class MergeStage(StageBase):
    """Merge models of this run, or of HF folders, by their weights (models/merge.py has the formulas).

    Every ratio makes a model; where there are several, the best on the suites is the stage's (arXiv 2508.14444: a
    reasoning-strong and a chat-strong checkpoint, shares of 0.1 to 0.9, about 0.5 was best).
    """

    kind: Literal["merge"] = "merge"
    """Stage kind."""
    of: Annotated[list[str], Field(min_length=2)]
    """What is merged: earlier stages, `start`, or HF folders of the same architecture; the last one's config.json,
    tokenizer and dtypes are kept."""
    method: Literal["linear", "slerp", "task_arithmetic", "ties"] = "linear"
    """Of two models: linear, their weighted mean; slerp, on the arc between them, tensor by tensor. Of any number:
    task_arithmetic, base + ratio x the sum of their differences from it (arXiv 2212.04089); ties, base + ratio x the
    mean of the differences that are large and of the sign that prevails (arXiv 2306.01708)."""
    base: str | None = None
    """task_arithmetic, ties: what the differences are from: an earlier stage, `start`, or an HF folder."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """ties: share of each tensor's differences that is kept, the largest ones."""
    ratios: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """linear, slerp: the second model's share, 0 to 1. task_arithmetic, ties: scale of the differences."""
    select_prompts: PositiveInt = 64
    """Several ratios: prompts of each suite of the domains in `promise.improve` (where none is, of those that
    `promise.hold` names, or all) that they are scored on: the first so many. The gate judges the best one on the whole
    suites."""

    def reads(self) -> Iterator[DataUse]:
        """Yield nothing: it has no data."""
        yield from ()

    def models(self) -> Iterator[ModelUse]:
        """Yield the models that it merges, and their base."""
        yield from (ModelUse(f"of.{place}", reference, "merged") for place, reference in enumerate(self.of))
        if self.base is not None:
            yield ModelUse("base", self.base, "merged")

    def size(self) -> StageSize:
        """Return how large the stage is."""
        return StageSize(0, "0", f"{len(self.of)} models x {len(self.ratios)}", 0, 0)

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what makes the merge impossible."""
        key, by_differences = f"stages.{name}", self.method in ("task_arithmetic", "ties")
        if by_differences == (self.base is None):
            value = f"{key}.method={self.method}, {key}.base={self.base}"
            mend = f"{key}.base=start" if by_differences else f"{key}.base=null"
            yield CascadeError("differences are from a base, and only they", value=value, mend=mend)
        if not by_differences and len(self.of) != 2:
            limit = "2; task_arithmetic and ties take any number"
            yield CascadeError(
                f"{self.method} merges two models",
                value=f"{key}.of={self.of}",
                limit=limit,
                mend=f"{key}.of=[{','.join(self.of[:2])}]",
            )
        if not by_differences and max(self.ratios) > 1:
            yield CascadeError(
                "a share is at most 1", value=f"{key}.ratios={self.ratios}", limit="0 to 1", mend=f"{key}.ratios=[0.5]"
            )
        if len(set(self.ratios)) < len(self.ratios):
            yield CascadeError(
                "a ratio stands twice",
                value=f"{key}.ratios={self.ratios}",
                limit="each once",
                mend=f"{key}.ratios={sorted(set(self.ratios))}".replace(" ", ""),
            )
        yield from policies_by_then(run, name, self.models())
