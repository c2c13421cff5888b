"""`nemo-cascade plan` on files of figures: predict them, or fit the factors to them."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np

from nemo_cascade.cli.screen.figures_table import show_errors, show_left_out
from nemo_cascade.cli.screen.terminal import out
from nemo_cascade.planner.fitted import estimates, save, shipped
from nemo_cascade.planner.published.figures import read_rows
from nemo_cascade.planner.published.validation import (
    FOLDS,
    Predicted,
    cross_validated,
    errors_by_group,
    fit_figures,
    widening_for,
)
from nemo_cascade.planner.quantity import QUANTITIES, Quantity

SEEDS = (0, 1, 2, 3, 4)
"""Of the partitions into folds whose errors are told together."""
CALIBRATED_ON = {"train": "tuned", "memory": "real sizes"}
"""Group that the printed range is made for, by quantity."""


def predict_published(path: Path) -> int:
    """Predict every row of a file by the shipped factors and print the errors by group."""
    read = read_rows(path)
    for quantity in QUANTITIES.values():
        if figures := read.of(quantity):
            asked = estimates(quantity, shipped(quantity.name), [figure.subject for figure in figures])
            show_errors(quantity, errors_by_group(list(map(Predicted, figures, asked))), "by the shipped factors")
    show_left_out(read)
    return 0


def fit_published(path: Path, into: Path) -> int:
    """Cross-validate, print the errors on figures left out, fit to all, write the factors."""
    read = read_rows(path)
    for quantity in QUANTITIES.values():
        figures = read.of(quantity)
        if not figures:
            continue
        chosen = CALIBRATED_ON.get(quantity.name, "all")
        tried = [cross_validated(quantity, figures, seed) for seed in SEEDS]
        widening = float(np.mean([widening_for(one, chosen) for one in tried]))
        left_out = [one.widened(widening) for some in tried for one in some]
        errors = errors_by_group(left_out)
        title = f"figures left out of the fit ({FOLDS} folds by configuration, {len(SEEDS)} partitions together)"
        show_errors(quantity, errors, title)
        fitted = replace(fit_figures(quantity, figures), widening=widening)
        target = into / f"{quantity.name}.json"
        told = {
            "figures": len(figures),
            "file": path.name,
            "date": datetime.date.today().isoformat(),
            "seeds": list(SEEDS),
            "folds": FOLDS,
            "left_out": {
                row.group: [round(row.median, 4), round(row.most, 4), row.count // len(SEEDS)] for row in errors
            },
        }
        save(target, quantity, fitted, told)
        _show_factors(quantity, fitted.factors, target)
    show_left_out(read)
    return 0


def _show_factors(quantity: Quantity, factors: np.ndarray, target: Path) -> None:
    told = ", ".join(f"{name} {np.exp(value):.3g}" for name, value in zip(quantity.names, factors, strict=True))
    out.print(f"written to {target}: {told}", soft_wrap=True, markup=False)
    out.print()
