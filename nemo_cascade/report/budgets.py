"""Accuracy over budgets: suites that differ in nothing but how long a thought may be, as curves of the stages."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from nemo_cascade.report.curves import Chart
from nemo_cascade.report.matrix import Matrix
from nemo_cascade.report.plots import COLORS, Series, line_chart


def budget_charts(matrix: Matrix, suites: Mapping[str, Any]) -> list[Chart]:
    """Draw a chart for each set of suites that differ in their budgets alone, a curve for each stage.

    Args:
        matrix: the run's scores.
        suites: by domain, as config.yaml has them.
    """
    sets: dict[str, dict[int, str]] = {}
    for domain in matrix.domains:
        suite = suites.get(domain)
        sampling = suite.get("sampling") if isinstance(suite, Mapping) else None
        if not isinstance(suite, Mapping) or not isinstance(sampling, Mapping):
            continue
        budget = sampling.get("thinking_budget")
        if isinstance(budget, int):
            rest = {key: value for key, value in suite.items() if key != "sampling"}
            drawn = {key: value for key, value in sampling.items() if key not in ("thinking_budget", "max_tokens")}
            sets.setdefault(json.dumps([rest, drawn], sort_keys=True, default=str), {})[budget] = domain
    return [chart for members in sets.values() if len(members) > 1 and (chart := _drawn(matrix, members))]


def _drawn(matrix: Matrix, members: Mapping[int, str]) -> Chart | None:
    budgets = sorted(members)
    curves = []
    for row in matrix.rows:
        cells = [row.cells.get(members[budget]) for budget in budgets]
        scores = [np.nan if cell is None or cell.score is None else cell.score for cell in cells]
        if np.isfinite(scores).any():
            curves.append(Series(row.stage, np.array(budgets, np.float64), np.array(scores)))
    if not curves:
        return None
    names = ", ".join(members[budget] for budget in budgets)
    last = ", ".join(f"{budget}: {score:.3f}" for budget, score in zip(budgets, curves[-1].y, strict=True))
    legend = tuple((curve.label, i % COLORS) for i, curve in enumerate(curves))
    return Chart("Score by budget of thoughts", f"tokens; {names}", line_chart(curves), legend, last)
