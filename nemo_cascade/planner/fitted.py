"""Fitted factors: made from figures, kept in a file that ships, read for every plan.

A file says what it was fitted to: how many figures, on which day, how they were folded, and the errors on figures that
were left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.planner.quantity import QUANTITIES, Quantity
from nemo_cascade.planner.regression import Figures, Fitted, Neighbours
from nemo_cascade.storage.atomic import write_atomically

FOLDER = Path(__file__).parent / "factors"
_Z80 = 1.2816  # a normal's central 80 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted value, and the range that holds 80 % of figures."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of the range's width as a share of the value."""
        return (self.high - self.low) / (2 * self.value)


def estimates(
    quantity: Quantity, fitted: Fitted, subjects: Sequence[Any], more: Figures | None = None
) -> list[Estimate]:
    """Predict subjects.

    Args:
        quantity: what of them.
        fitted: its factors.
        subjects: jobs, peaks, ...
        more: figures of the user's own machine (`calibrated`).
    """
    if not subjects:
        return []
    formula = quantity.formula(subjects)
    base, slope = formula.values(fitted.factors), formula.slope(fitted.factors)
    added, deviation = fitted.corrected(quantity.neighbours(subjects), slope, quantity.noises(subjects), more)
    wide = _Z80 * fitted.widening * deviation
    middle = np.exp(base + added)
    return [Estimate(float(m), float(m * np.exp(-w)), float(m * np.exp(w))) for m, w in zip(middle, wide, strict=True)]


def save(path: Path, quantity: Quantity, fitted: Fitted, told: dict[str, Any]) -> None:
    """Write factors; `told`: rows, date, seed, errors."""
    figures = fitted.figures
    data = {
        "quantity": quantity.name,
        "unit": quantity.unit,
        **told,
        "widening": round(fitted.widening, 4),
        "factors": {name: _digits(np.exp(value)) for name, value in zip(quantity.names, fitted.factors, strict=True)},
        "labels": figures.neighbours.labels,
        "places": [[round(float(value), 3) for value in row] for row in figures.neighbours.places],
        "slope": [{str(i): _digits(row[i]) for i in np.nonzero(np.abs(row) > 1e-4)[0]} for row in figures.slope],
        "residuals": [round(float(value), 5) for value in figures.residuals],
        "noise": [round(float(value), 5) for value in figures.noise],
    }
    text = "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()) + "\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def load(path: Path, quantity: Quantity) -> Fitted:
    """Read factors.

    Raises:
        ConfigError: the file is missing or damaged, or of other factors than this version knows.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if list(data["factors"]) != list(quantity.names):
            raise ValueError("its factors aren't those of this version")
        slope = np.zeros((len(data["slope"]), len(quantity.names)))
        for number, row in enumerate(data["slope"]):
            for index, value in row.items():
                slope[number, int(index)] = value
        places = np.array(data["places"], dtype=float).reshape(len(slope), -1)
        residuals, noise = np.array(data["residuals"], dtype=float), np.array(data["noise"], dtype=float)
        factors = np.log(np.array(list(data["factors"].values()), dtype=float))
        figures = Figures(Neighbours(data["labels"], places), slope, residuals, noise)
        return Fitted(factors, quantity.prior, quantity.deviation, figures, quantity.parts, float(data["widening"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        mend = "fit anew: nemo-cascade plan --fit FIGURES.jsonl"
        raise ConfigError([CascadeError("no usable file of factors", value=f"{path}: {error}", mend=mend)]) from None


@lru_cache(maxsize=8)
def shipped(name: str) -> Fitted:
    """Return the shipped factors of a quantity."""
    return load(FOLDER / f"{name}.json", QUANTITIES[name])


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
