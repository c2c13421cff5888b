"""Suites whose scores are taken between the steps of a stage."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig
    from nemo_cascade.config.stages.base import TrainedStage

Metric = Literal["measured_mean", "validation_loss", "reward_mean", "holdout_accuracy"]
LOWER_IS_BETTER = ("validation_loss",)


@block
class MeasureConfig:
    """What is scored while a stage trains: metrics.jsonl has it as measured_DOMAIN, and their mean as measured_mean."""

    suites: list[str] = field(default_factory=list)
    """Domains of evaluation.suites; none: nothing is scored before the stage's end."""
    every: PositiveInt = 50
    """Steps between measurements; the last step is left to the suites behind the stage."""
    num_prompts: PositiveInt = 64
    """Prompts of each suite, the first so many."""
    patience: PositiveInt | None = None
    """The stage ends where so many measurements in a row had no better mean than the best before them; null: never."""


def measure_problems(config: RunConfig, name: str, stage: TrainedStage) -> Iterator[CascadeError]:
    """Yield what can't be scored between a stage's steps, and a metric to keep checkpoints by that it hasn't."""
    prefix, measure = f"stages.{name}", stage.measures()
    suites, before = config.evaluation.suites, list(config.stages)[: list(config.stages).index(name)]
    judges = {domain: suite.reward_model for domain, suite in suites.items()}
    possible = [domain for domain, judge in judges.items() if judge not in config.stages or judge in before]
    asked = [] if measure is None else measure.suites
    for domain in asked:
        if domain not in possible:
            near = difflib.get_close_matches(domain, possible, n=1)
            meant = dict.fromkeys(other for given in asked for other in (near if given == domain else [given]))
            what = "no such suite" if domain not in suites else "the suite's reward model isn't trained by then"
            mend = f"{prefix}.measure.suites=[{','.join(meant)}]"
            value = f"{prefix}.measure.suites: {domain}"
            yield CascadeError(what, value=value, limit=", ".join(possible) or "none", mend=mend)
    if measure is not None and measure.patience is not None and not measure.suites:
        mend = f"{prefix}.measure.patience=null, or name suites"
        value = f"{prefix}.measure.patience={measure.patience}"
        limit = "null without measure.suites"
        yield CascadeError("nothing is measured that could end the stage", value=value, limit=limit, mend=mend)
    if (metric := stage.keep_best) is None:
        return
    every = stage.metrics_every()
    value = f"{prefix}.keep_best={metric}"
    if metric not in every:
        limit = ", ".join(every) or "null"
        mend = f"{prefix}.keep_best={next(iter(every), 'null')}"
        yield CascadeError("the stage doesn't measure this", value=value, limit=limit, mend=mend)
    elif stage.checkpoint_every % every[metric]:
        limit = f"a multiple of the {every[metric]} steps between its values; {stage.checkpoint_every} are not"
        mend = f"{prefix}.checkpoint_every={-(-stage.checkpoint_every // every[metric]) * every[metric]}"
        yield CascadeError("checkpoints have no such value", value=value, limit=limit, mend=mend)
