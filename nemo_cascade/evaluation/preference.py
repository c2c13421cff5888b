"""What a reward model is worth on pairs it never saw: accuracy, loss, calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.statistics import Float64
from nemo_cascade.storage.atomic import write_json

_BINS = 10


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Pairs of about the same confidence.

    Attributes:
        predicted: mean P(the response that scores higher is the preferred one), 0.5 to 1.
        observed: share of them that were.
        n: pairs.
    """

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True, slots=True)
class PreferenceScores:
    """A reward model on hold-out pairs.

    Attributes:
        n: pairs.
        accuracy: share ordered right; a tie is half right.
        stderr: standard error of the accuracy.
        loss: mean -log P(chosen > rejected).
        margin: mean score difference, chosen - rejected.
        calibration_error: mean |predicted - observed| over the bins, weighted by pairs.
        bins: by confidence, rising; empty ones left out.
    """

    n: int
    accuracy: float
    stderr: float
    loss: float
    margin: float
    calibration_error: float
    bins: tuple[CalibrationBin, ...]

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> PreferenceScores:
        """Read such a file.

        Raises:
            RunFolderError: it is missing or isn't such a file.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(bins=tuple(CalibrationBin(**entry) for entry in raw.pop("bins")), **raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"can't read the reward model's scores in {path}", value=repr(error)) from error


def preference_scores(margins: Sequence[float] | Float64) -> PreferenceScores:
    """Judge a reward model by its margins r(chosen) - r(rejected) [n] on hold-out pairs."""
    margin_n = np.asarray(margins, dtype=np.float64)
    right_n = (margin_n > 0) + 0.5 * (margin_n == 0)
    # P = sigmoid(|margin|): how sure the model is of its own order.
    confidence_n = 1.0 / (1.0 + np.exp(-np.abs(margin_n)))
    index_n = np.minimum(((confidence_n - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    bins = tuple(
        CalibrationBin(float(confidence_n[own].mean()), float(right_n[own].mean()), int(own.sum()))
        for own in (index_n == b for b in range(_BINS))
        if own.any()
    )
    return PreferenceScores(
        n=margin_n.size,
        accuracy=float(right_n.mean()),
        stderr=float(right_n.std() / np.sqrt(margin_n.size)),
        loss=float(np.logaddexp(0.0, -margin_n).mean()),
        margin=float(margin_n.mean()),
        calibration_error=sum(b.n * abs(b.predicted - b.observed) for b in bins) / margin_n.size,
        bins=bins,
    )
