"""What a run measured, beside its plan; and measurements as figures that later plans start from.

A run writes seconds by phase and tokens of every step. One measured step says how this software on this machine differs
from the figures that the shipped factors were fitted to: it moves the prediction near it and narrows its range.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.planner.fitted import Estimate, estimates, shipped
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.quantity import QUANTITIES, TRAIN
from nemo_cascade.planner.regression import Figures, Neighbours
from nemo_cascade.storage.atomic import write_atomically

_NOISE = 0.03
"""Of a median over steps of one machine."""


@dataclass(frozen=True, slots=True)
class MeasuredStage:
    """Medians over a stage's steps, the first left out where there are others.

    Attributes:
        name: of the stage.
        seconds: by phase.
        tokens: of an optimizer step, prompts included.
        steps: that were looked at.
        memory: bytes that a rank held at most; None where it wasn't logged.
    """

    name: str
    seconds: Mapping[str, float]
    tokens: float
    steps: int
    memory: float | None


def measured_stage(name: str, lines: Sequence[Mapping[str, Any]]) -> MeasuredStage | None:
    """Return a stage's medians; None where no step was measured."""
    usable = [line for line in lines if isinstance(line.get("seconds"), Mapping) and line.get("tokens")]
    usable = usable[1:] or usable
    if not usable:
        return None
    phases = sorted({phase for line in usable for phase in line["seconds"]})
    seconds = {phase: float(np.median([line["seconds"].get(phase, 0.0) for line in usable])) for phase in phases}
    held = [float(line["memory_bytes"]) for line in usable if line.get("memory_bytes")]
    tokens = float(np.median([line.get("total_tokens") or line["tokens"] for line in usable]))
    return MeasuredStage(name, seconds, tokens, len(usable), max(held) if held else None)


def as_measured(job: Job, measured: MeasuredStage) -> Job:
    """Return a job with the tokens that its steps really had."""
    packs = measured.tokens / job.sequence / job.layout.dp
    count = max(1, round(packs))
    return replace(job, micro_batches=count, sequence=max(1, round(measured.tokens / job.layout.dp / count)))


def training_figures(jobs: Sequence[Job], seconds: Sequence[float]) -> Figures:
    """Return measured training steps as figures beside the shipped factors."""
    fitted = shipped(TRAIN.name)
    values = np.log(np.array(seconds, dtype=float))
    noise = np.full(len(values), _NOISE)
    return Figures.of(TRAIN.formula(jobs), fitted.factors, TRAIN.neighbours(jobs), values, noise)


def save_calibration(path: Path, figures: Figures, told: Mapping[str, Any]) -> None:
    """Write measured figures; `told`: of which run, which versions."""
    data = {
        "quantity": TRAIN.name,
        **told,
        "names": list(TRAIN.names),
        "labels": figures.neighbours.labels,
        "places": figures.neighbours.places.tolist(),
        "slope": figures.slope.tolist(),
        "residuals": figures.residuals.tolist(),
        "noise": figures.noise.tolist(),
    }
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def load_calibration(path: Path) -> Figures:
    """Read measured figures.

    Raises:
        ConfigError: the file is missing, damaged, or of another version's factors.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["names"] != list(QUANTITIES[data["quantity"]].names):
            raise ValueError("it was made by a version with other factors")
        arrays = [np.array(data[key], dtype=float) for key in ("places", "slope", "residuals", "noise")]
        return Figures(Neighbours(data["labels"], arrays[0]), *arrays[1:])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        mend = "make it anew: nemo-cascade plan ... --calibrate RUN_FOLDER"
        raise ConfigError([CascadeError("no usable calibration", value=f"{path}: {error}", mend=mend)]) from None


def training_estimate(job: Job, more: Figures | None) -> Estimate:
    """Predict seconds of an update, from the user's own figures where there are some."""
    return estimates(TRAIN, shipped(TRAIN.name), [job], more)[0]
