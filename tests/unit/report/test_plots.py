"""Charts: valid SVG inside its own frame, for every kind of curve a run can log."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from nemo_cascade.report.plots import Series, line_chart, score_chart, stacked_chart


def drawing(svg):
    """Return (curve subpaths, tick labels); checks that everything lies in the view box."""
    root = ElementTree.fromstring(svg)
    width, height = map(float, root.get("viewBox").split()[2:])
    paths = [element.get("d") for element in root.iter("path")]
    for data in paths:
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", data):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
    assert "nan" not in svg
    assert "inf" not in svg
    return paths, [text.text for text in root.iter("text")]


@pytest.mark.parametrize("steps", [1, 2, 11, 60, 5000])
@pytest.mark.parametrize("log", [False, True])
def test_any_number_of_steps_is_drawn(steps, log):
    x = np.arange(1.0, steps + 1)
    paths, labels = drawing(
        line_chart([Series("a", x, np.exp(-x / steps)), Series("b", x, np.exp(x / steps))], log=log)
    )
    assert labels
    assert all(len(data) < 8000 for data in paths)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-6, 1e12])
@pytest.mark.parametrize("zero", [False, True])
def test_a_constant_curve_has_an_axis(value, zero):
    _, labels = drawing(line_chart([Series("a", np.arange(1.0, 5), np.full(4, value))], zero=zero))
    assert len(labels) >= 2


def test_a_gap_lifts_the_pen():
    y = np.array([1.0, 2.0, np.nan, 2.0, 1.0])
    paths, _ = drawing(line_chart([Series("a", np.arange(1.0, 6), y)]))
    curve = paths[-1]
    assert curve.count("M") == 2
    assert curve.count("L") == 2


def test_stacked_parts_end_at_their_sum():
    x = np.arange(1.0, 4)
    paths, labels = drawing(stacked_chart(x, {"a": np.array([1.0, 2, 3]), "b": np.array([np.nan, 2, 3])}))
    assert labels[:4] == ["0", "2", "4", "6"]
    tops = [min(float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", data)) for data in paths[-2:]]
    heights = [132 - top for top in tops]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    drawing(stacked_chart(np.array([3.0]), {"a": np.array([2.0])}))


def test_scores_leave_out_what_was_not_measured_and_escape_names():
    svg = score_chart(["start", "a<b"], {"math": [(0.2, 0.05), (0.6, 0.05)], "code": [None, (0.5, 0.0)]})
    _, labels = drawing(svg)
    assert labels[-2:] == ["start", "a<b"]
    assert svg.count("<circle") == 3
