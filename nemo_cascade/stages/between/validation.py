"""Validation loss of an SFT stage: over conversations that are never trained on, and the end that it may bring.

loss = sum of -log p over the trained tokens of all packs / their count
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.sft import SftStage
from nemo_cascade.config.stages.sft_data import SftDataConfig, SourceConfig
from nemo_cascade.config.stages.validation import ValidationConfig
from nemo_cascade.data.batches import PackedSource
from nemo_cascade.data.sft.build import build_packed_store

METRIC = "validation_loss"


class Validation:
    """A stage's measurements.

    Args:
        config: what is measured, how often, and when it ends the stage.
        source: all packs, as one batch.
        replicas: over which the packs are dealt.
        steps: of the stage.
        earlier: lines of metrics.jsonl of the steps that are done.
    """

    def __init__(
        self,
        config: ValidationConfig,
        source: PackedSource,
        replicas: int,
        steps: int,
        earlier: Sequence[Mapping[str, Any]],
    ) -> None:
        self.config, self._source, self._replicas, self._steps = config, source, replicas, steps
        self._losses = [float(line[METRIC]) for line in earlier if line.get(METRIC) is not None]

    def measured(self, policy: TrainerGroup, steps_done: int) -> dict[str, float | None]:
        """Return the metric for a step's line; empty where none is due."""
        if steps_done % self.config.every and steps_done != self._steps:
            return {}
        logprobs = policy.logprobs(self._source, 0)
        total, count = 0.0, 0.0
        for rank, batches in enumerate(logprobs):
            for batch, scored_T in zip(self._source.micro_batches(0, rank, self._replicas), batches, strict=True):
                total -= float(np.dot(batch.loss_mask.astype(np.float64), scored_T.astype(np.float64)))
                count += float(batch.loss_mask.sum())
        loss = total / count if count else float("nan")
        if not np.isfinite(loss):
            return {METRIC: None}
        self._losses.append(loss)
        return {METRIC: loss}

    @property
    def reason_to_end(self) -> dict[str, Any] | None:
        """What the ledger says of a stage that ends now; None where it goes on."""
        patience = self.config.patience
        if patience is None or len(self._losses) <= patience:
            return None
        best = min(self._losses[:-patience])
        newest = min(self._losses[-patience:])
        return None if newest < best else {"rule": METRIC, "value": newest, "limit": best}


def validation_source(config: RunConfig, stage: SftStage, start: Path, folder: Path) -> PackedSource | None:
    """Pack a stage's validation rows, or find them packed; None where it has none.

    Raises:
        DataError: rows that are no conversations, or too long, as for those that are trained on.
    """
    if stage.validation is None:
        return None
    given = stage.validation
    source = SourceConfig(
        path=given.path,
        subset=given.subset,
        split=given.split,
        revision=given.revision,
        schema=given.schema,
        columns=given.columns,
    )
    data = SftDataConfig(
        sources=[source], overlong=stage.data.overlong, max_bad_fraction=stage.data.max_bad_fraction,
        workers=stage.data.workers,
    )  # fmt: skip
    store = build_packed_store(replace(stage, data=data), start, folder, logging_config=config.logging)
    return PackedSource(store.folder, len(store), 0)
