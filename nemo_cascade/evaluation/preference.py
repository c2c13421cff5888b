"""What a reward model is worth on pairs it never saw: accuracy, also by the labels' gap; calibration; length bias."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

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
class GapBin:
    """Pairs whose replies are about as far apart by the labels.

    Attributes:
        gap: mean |difference| by the labels.
        accuracy: share of them ordered right; a tie is half right.
        n: pairs.
    """

    gap: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Whether the longer reply is liked for its length; pairs of equal length are left out.

    Attributes:
        n: pairs.
        longer_chosen: share of them whose longer reply is the preferred one.
        longer_scored: share of them whose longer reply the model scores higher; far above `longer_chosen` is a bias.
        accuracy_longer: share ordered right where the longer one is preferred; None: there are none.
        accuracy_shorter: the same where the shorter one is.
        correlation: of score margin and difference in length, over all pairs; None where either doesn't vary.
    """

    n: int
    longer_chosen: float
    longer_scored: float
    accuracy_longer: float | None
    accuracy_shorter: float | None
    correlation: float | None


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
        by_gap: by how far the replies are apart, rising; empty where the labels don't say.
        length: length bias; None where all pairs are of equal length.
        errors: mean squared error by attribute; empty where none are rated.
        correlations: of predicted and given ratings by attribute; None where either doesn't vary.
    """

    n: int
    accuracy: float
    stderr: float
    loss: float
    margin: float
    calibration_error: float
    bins: tuple[CalibrationBin, ...]
    by_gap: tuple[GapBin, ...] = ()
    length: LengthBias | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    correlations: Mapping[str, float | None] = field(default_factory=dict)

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
            bins = tuple(CalibrationBin(**entry) for entry in raw.pop("bins"))
            by_gap = tuple(GapBin(**entry) for entry in raw.pop("by_gap", ()))
            length = raw.pop("length", None)
            return cls(bins=bins, by_gap=by_gap, length=None if length is None else LengthBias(**length), **raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"can't read the reward model's scores in {path}",
                value=repr(error),
                mend="restore the file, or delete it and run the stage again",
            ) from error


def preference_scores(
    margins: Sequence[float] | Float64,
    gaps: Float64 | None = None,
    longer: Float64 | None = None,
    errors: Mapping[str, float] = MappingProxyType({}),
    correlations: Mapping[str, float | None] = MappingProxyType({}),
) -> PreferenceScores:
    """Judge a reward model on hold-out pairs.

    Args:
        margins: [n], r(chosen) - r(rejected).
        gaps: [n], how far the replies are apart by the labels, where these say it.
        longer: [n], tokens of the chosen reply less those of the rejected one, where they are known.
        errors: mean squared error by attribute, where there are any.
        correlations: of predicted and given ratings by attribute, where there are any.
    """
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
        by_gap=() if gaps is None else _by_gap(np.asarray(gaps, np.float64), right_n),
        length=None if longer is None else _length_bias(margin_n, right_n, np.asarray(longer, np.float64)),
        errors=dict(errors),
        correlations=dict(correlations),
    )


def correlation(left_n: Float64, right_n: Float64) -> float | None:
    """Return Pearson's correlation over the places where neither is NaN; None where either doesn't vary."""
    both_n = ~np.isnan(left_n) & ~np.isnan(right_n)
    left_n, right_n = left_n[both_n], right_n[both_n]
    if left_n.size < 2 or left_n.std() == 0 or right_n.std() == 0:
        return None
    return float(np.corrcoef(left_n, right_n)[0, 1])


def _by_gap(gap_n: Float64, right_n: Float64) -> tuple[GapBin, ...]:
    """Return a bin for each gap where there are few of them, else bins of about as many pairs."""
    found = np.unique(gap_n)
    edges = found if found.size <= _BINS else np.unique(np.quantile(gap_n, np.linspace(0, 1, _BINS // 2 + 1)[:-1]))
    index_n = np.searchsorted(edges, gap_n, side="right")
    owned = (index_n == b for b in np.unique(index_n))
    return tuple(GapBin(float(gap_n[own].mean()), float(right_n[own].mean()), int(own.sum())) for own in owned)


def _length_bias(margin_n: Float64, right_n: Float64, longer_n: Float64) -> LengthBias | None:
    differ_n = longer_n != 0
    if not differ_n.any():
        return None
    chosen_n, sign_n = longer_n > 0, np.sign(longer_n)
    scored_n = (margin_n * sign_n > 0) + 0.5 * (margin_n == 0)

    def accuracy(own: NDArray[np.bool_]) -> float | None:
        return float(right_n[own].mean()) if own.any() else None

    return LengthBias(
        n=int(differ_n.sum()),
        longer_chosen=float(chosen_n[differ_n].mean()),
        longer_scored=float(scored_n[differ_n].mean()),
        accuracy_longer=accuracy(chosen_n),
        accuracy_shorter=accuracy(longer_n < 0),
        correlation=correlation(margin_n, longer_n),
    )
