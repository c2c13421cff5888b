"""How well the planner predicts figures that it wasn't fitted to: five folds, one configuration never on both sides."""

from pathlib import Path

import pytest

from nemo_cascade.planner.published.figures import read_rows
from nemo_cascade.planner.published.validation import cross_validated, errors_by_group
from nemo_cascade.planner.quantity import QUANTITIES

pytestmark = pytest.mark.bench

ROWS = Path(__file__).with_name("published.jsonl")
# Group, median, 90 %, over three partitions into folds.
LIMITS = {
    "train": ("tuned", 0.08, 0.25),
    "memory": ("real sizes", 0.06, 0.18),
    "decode": ("all", 0.16, 0.35),
}


@pytest.fixture(scope="module")
def rows():
    return read_rows(ROWS)


@pytest.mark.parametrize("name", LIMITS)
def test_figures_left_out_of_the_fit_are_predicted(name, rows):
    quantity, (group, median, most) = QUANTITIES[name], LIMITS[name]
    left_out = [one for seed in (0, 1, 2) for one in cross_validated(quantity, rows.of(quantity), seed)]
    errors = next(row for row in errors_by_group(left_out) if row.group == group)
    print(name, errors)
    assert errors.median <= median
    assert errors.most <= most
