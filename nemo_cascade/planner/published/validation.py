"""Fit factors to figures, and say how well they predict figures that they weren't fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_cascade.planner.fitted import Estimate, estimates
from nemo_cascade.planner.published.figures import Figure
from nemo_cascade.planner.quantity import Quantity
from nemo_cascade.planner.regression import Fitted, fit

FOLDS = 5
_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Predicted:
    """A figure and what was predicted of it."""

    figure: Figure
    estimate: Estimate

    @property
    def error(self) -> float:
        """Relative, signed: 0.1 is a tenth too much."""
        return self.estimate.value / self.figure.value - 1

    @property
    def inside(self) -> bool:
        """Whether the figure lies in the range."""
        return self.estimate.low <= self.figure.value <= self.estimate.high

    def widened(self, factor: float) -> Predicted:
        """Return the same with another range."""
        value, wide = self.estimate.value, (self.estimate.high / self.estimate.value) ** factor
        return Predicted(self.figure, Estimate(value, value / wide, value * wide))


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of a group: quantiles of their size, the median signed, the share inside the predicted range."""

    group: str
    count: int
    median: float
    most: float
    bias: float
    inside: float


def fit_figures(quantity: Quantity, figures: Sequence[Figure]) -> Fitted:
    """Fit one quantity's factors to its figures."""
    subjects = [figure.subject for figure in figures]
    return fit(
        quantity.formula(subjects),
        np.log([figure.value for figure in figures]),
        prior=quantity.prior,
        deviation=quantity.deviation,
        least=quantity.least,
        neighbours=quantity.neighbours(subjects),
        parts=quantity.parts,
        noise=quantity.noises(subjects),
    )


def cross_validated(quantity: Quantity, figures: Sequence[Figure], seed: int) -> list[Predicted]:
    """Predict every figure by factors fitted to the other folds; figures of one configuration share a fold."""
    configurations = sorted({figure.configuration for figure in figures})
    order = np.random.default_rng(seed).permutation(len(configurations))
    fold = {configurations[index]: number % FOLDS for number, index in enumerate(order)}
    found: list[Predicted] = []
    for number in range(FOLDS):
        known = [figure for figure in figures if fold[figure.configuration] != number]
        asked = [figure for figure in figures if fold[figure.configuration] == number]
        if not known or not asked:
            continue
        fitted = fit_figures(quantity, known)
        found += map(Predicted, asked, estimates(quantity, fitted, [figure.subject for figure in asked]))
    return found


def widening_for(predicted: Sequence[Predicted], chosen: str = "all") -> float:
    """Return the factor on predicted deviations with which four fifths of the figures lie inside."""
    needed = [
        abs(np.log(one.figure.value / one.estimate.value)) / np.log(one.estimate.high / one.estimate.value)
        for one in predicted
        if chosen in one.figure.groups
    ]
    return float(np.quantile(needed, _SHARE)) if needed else 1.0


def errors_by_group(predicted: Sequence[Predicted]) -> list[Errors]:
    """Return errors of every group, the widest first."""
    groups: dict[str, list[Predicted]] = {}
    for one in predicted:
        for name in one.figure.groups:
            groups.setdefault(name, []).append(one)
    rows = []
    for name, members in groups.items():
        sizes = [abs(one.error) for one in members]
        rows.append(
            Errors(
                name,
                len(members),
                float(np.median(sizes)),
                float(np.quantile(sizes, 0.9)),
                float(np.median([one.error for one in members])),
                float(np.mean([one.inside for one in members])),
            )
        )
    return sorted(rows, key=lambda row: (-row.count, row.group))
