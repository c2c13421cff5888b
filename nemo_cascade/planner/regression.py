"""Fit a formula's factors to figures, with what figures of the same kind have in common beyond the formula.

    log seconds = formula(factors) + u + e

`factors` have a prior and stay near it where the figures say nothing; `u` is a Gaussian process over what a figure is
of (model, machine, software, layout), so a deviation that a neighbour shows is expected here, too; `e` is noise with
heavy tails. One more figure of a user's own machine is one more row: it narrows the range near it and nowhere else.

Shapes: N figures, M asked for, F factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FREEDOM = 4.0  # degrees of freedom of the noise's t distribution


@dataclass(frozen=True)
class Neighbours:
    """What figures have in common: a sum of parts, each a variance times agreements.

    Attributes:
        labels: [N] strings by name: model, machine, software, ...
        places: [N, D] numbers, each divided by the length over which figures stay alike.
    """

    labels: dict[str, list[str]]
    places: Array

    def __len__(self) -> int:
        return len(self.places)

    def joined(self, other: Neighbours) -> Neighbours:
        """Return both, one after the other."""
        labels = {name: own + other.labels[name] for name, own in self.labels.items()}
        return Neighbours(labels, np.concatenate([self.places, other.places]))

    def chosen(self, rows: NDArray[np.int64]) -> Neighbours:
        """Return some."""
        return Neighbours({n: [own[i] for i in rows] for n, own in self.labels.items()}, self.places[rows])


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the covariance.

    Attributes:
        deviation: standard deviation, in log seconds.
        labels: that must agree; `name: share` keeps a share of the covariance where it doesn't.
        near: falls with the distance of places.
    """

    deviation: float
    labels: dict[str, float]
    near: bool = False


def covariance(parts: list[Part], a: Neighbours, b: Neighbours) -> Array:
    """Return [len(a), len(b)]."""
    agree = {
        name: np.array(own, dtype=object)[:, None] == np.array(b.labels[name], dtype=object)[None]
        for name, own in a.labels.items()
    }
    square = ((a.places**2).sum(1)[:, None] + (b.places**2).sum(1)[None] - 2 * a.places @ b.places.T).clip(0)
    close = np.exp(-0.5 * square)
    total: Array = np.zeros((len(a), len(b)))
    for part in parts:
        one: Array = np.full(total.shape, part.deviation**2)
        for name, share in part.labels.items():
            one = one * np.where(agree[name], 1.0, share)
        total += one * close if part.near else one
    return total


@dataclass(frozen=True)
class Figures:
    """Figures as a prediction needs them, whether fitted to or measured afterwards.

    Attributes:
        neighbours: what they are of.
        slope: [N, F] of the formula at the fitted factors.
        residuals: [N] log value minus the formula's.
        noise: [N] standard deviation that a figure was taken with.
    """

    neighbours: Neighbours
    slope: Array
    residuals: Array
    noise: Array

    @classmethod
    def of(cls, formula: Formula, factors: Array, neighbours: Neighbours, values: Array, noise: Array) -> Figures:
        """Take [N] logarithms of values as figures beside a formula's factors."""
        return cls(neighbours, formula.slope(factors), values - formula.values(factors), noise)

    def joined(self, other: Figures) -> Figures:
        """Return both, one after the other."""
        return Figures(
            self.neighbours.joined(other.neighbours),
            np.concatenate([self.slope, other.slope]),
            np.concatenate([self.residuals, other.residuals]),
            np.concatenate([self.noise, other.noise]),
        )


@dataclass(frozen=True)
class Fitted:
    """A fit: what a prediction needs.

    Attributes:
        factors: [F] log factors.
        prior: [F] those expected before.
        deviation: [F] how far off they were thought to be.
        figures: what was fitted to.
        parts: covariance of figures.
        widening: factor on the predicted deviation that makes its range hold 80 % of figures left out of a fit.
    """

    factors: Array
    prior: Array
    deviation: Array
    figures: Figures
    parts: list[Part]
    widening: float = 1.0

    def corrected(
        self, asked: Neighbours, slope: Array, noise: Array, more: Figures | None = None
    ) -> tuple[Array, Array]:
        """Return [M] what figures add to the formula's logarithm, and [M] the standard deviation of the sum.

        Args:
            asked: what is asked for.
            slope: [M, F] of the formula.
            noise: [M] of such figures.
            more: figures of the user's own; they move the factors as well as what is added to them.
        """
        known = self.figures
        mean = covariance(self.parts, asked, known.neighbours) @ self._pull
        before, deviation = self._joint(known, self._inverse, asked, slope)
        if more is not None and len(more.residuals):
            both = known.joined(more)
            after, deviation = self._joint(both, np.asarray(np.linalg.inv(self._total(both)), np.float64), asked, slope)
            mean = mean + after - before
        return mean, np.sqrt(deviation**2 + noise**2)

    @cached_property
    def _pull(self) -> Array:
        """Return [N], by which covariances with the figures become what they add."""
        known = self.figures
        shared = covariance(self.parts, known.neighbours, known.neighbours) + np.diag(known.noise**2)
        return np.asarray(np.linalg.solve(shared, known.residuals))

    @cached_property
    def _inverse(self) -> Array:
        return np.asarray(np.linalg.inv(self._total(self.figures)))

    def _total(self, known: Figures) -> Array:
        """Return [N, N], the covariance of figures where the factors aren't known, either."""
        scaled = known.slope * self.deviation
        shared = covariance(self.parts, known.neighbours, known.neighbours)
        return np.asarray(scaled @ scaled.T + shared + np.diag(known.noise**2))

    def _joint(self, known: Figures, inverse: Array, asked: Neighbours, slope: Array) -> tuple[Array, Array]:
        """Return [M] mean and deviation where factors and process are one Gaussian, the formula taken as linear."""
        scaled, moved = known.slope * self.deviation, slope * self.deviation
        across = moved @ scaled.T + covariance(self.parts, asked, known.neighbours)
        gain = across @ inverse
        away = self.factors - self.prior
        mean = gain @ (known.residuals + known.slope @ away) - slope @ away
        own = np.array([covariance(self.parts, one, one)[0, 0] for one in _each(asked)])
        variance = own + (moved**2).sum(1) - (gain * across).sum(1)
        return mean, np.sqrt(variance.clip(0))


def _each(asked: Neighbours) -> list[Neighbours]:
    return [asked.chosen(np.array([i])) for i in range(len(asked))]


class Formula(Protocol):
    """What is fitted: [F] log factors -> [N] log values."""

    def values(self, factors: Array) -> Array:
        """Return [N]."""

    def slope(self, factors: Array) -> Array:
        """Return [N, F], the derivatives."""


def by_differences(values: Callable[[Array], Array], factors: Array, step: float = 1e-5) -> Array:
    """Return [N, F], the derivatives of [N] values by [F] factors."""
    columns = []
    for index in range(len(factors)):
        moved = np.eye(len(factors))[index] * step
        columns.append((values(factors + moved) - values(factors - moved)) / (2 * step))
    return np.stack(columns, 1)


def fit(
    formula: Formula,
    values: Array,
    *,
    prior: Array,
    deviation: Array,
    least: Array,
    neighbours: Neighbours,
    parts: list[Part],
    noise: Array,
    rounds: int = 12,
) -> Fitted:
    """Return the most probable factors and what is left over.

    Gauss-Newton on the joint posterior of factors and process; each round weighs a figure down by how far it lies out.

    Args:
        formula: see `Formula`.
        values: [N] logarithms of what was published.
        prior: [F] log factors expected.
        deviation: [F] and how far they may be off.
        least: [F] log factors that none may fall below.
        neighbours: what the figures are of.
        parts: covariance of what they have in common.
        noise: [N] standard deviation of each figure by its kind.
        rounds: of Gauss-Newton.
    """
    shared = covariance(parts, neighbours, neighbours)
    factors, scale = np.maximum(prior, least), np.ones(len(values))
    for number in range(rounds):
        at, slope = formula.values(factors), formula.slope(factors)
        target = values - at + slope @ (factors - prior)
        rest = shared + np.diag((noise * scale) ** 2)
        inverse = np.linalg.inv(rest)
        precision = slope.T @ inverse @ slope + np.diag(deviation**-2.0)
        wanted = prior + np.linalg.solve(precision, slope.T @ (inverse @ target))
        factors = np.maximum(factors + (wanted - factors).clip(-0.5, 0.5) * (1.0 if number else 0.6), least)
        left = values - formula.values(factors)
        out = left - shared @ (inverse @ left)
        scale = np.sqrt((_FREEDOM + (out / noise) ** 2) / (_FREEDOM + 1)).clip(1.0, None)
    figures = Figures.of(formula, factors, neighbours, values, noise * scale)
    return Fitted(factors, prior, deviation, figures, parts)
