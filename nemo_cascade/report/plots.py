"""Small, quiet charts as inline SVG: a few kilobytes and about a millisecond each, so a page can hold hundreds.

Colours and font come from the page: the CSS variables --ink, --muted, --grid, --c0 ... --c9 must be defined there.
Lengths are in units of the view box; the page scales it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

COLORS = 10

# More points than this are binned: a curve a few hundred pixels wide can't show more.
_MOST_POINTS = 240
# Up to this many points a curve is drawn as it is; beyond, faint with its running mean on top.
_PLAIN_POINTS = 40
_DOTTED_POINTS = 12
_FONT = 10


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        label: for the legend, which the page writes.
        x: [n], rising.
        y: [n]; NaN leaves a gap.
    """

    label: str
    x: Float64
    y: Float64


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plot area of a chart and its two axes."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False
    left: float = 44
    bottom: float = 18

    def x(self, value: float) -> float:
        """Place a value on the x axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - 4)

    def y(self, value: float) -> float:
        """Place a value on the y axis."""
        low, high = (math.log10(v) for v in self.y_range) if self.log else self.y_range
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return 6 + (1 - share) * (self.height - self.bottom - 6)

    def svg(self, marks: Sequence[str], x_ticks: Sequence[tuple[float, str]]) -> str:
        """Put grid, labels and marks together."""
        parts = [f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" font-size="{_FONT}">']
        for value, label in _log_ticks(*self.y_range) if self.log else _ticks(*self.y_range, most=5):
            y = self.y(value)
            parts.append(_line(self.left, y, self.width, y, "grid", 1))
            parts.append(_text(self.left - 6, y + 3.5, label, "end"))
        floor = self.height - self.bottom
        parts += [_text(self.x(value), floor + 13.5, label, "middle") for value, label in x_ticks]
        return "".join([*parts, *marks, "</svg>"])


def line_chart(series: Sequence[Series], *, log: bool = False, zero: bool = False) -> str:
    """Draw curves over steps, colours by their order.

    Many points are drawn faintly (binned, with the range of each bin shaded) under their running mean.

    Args:
        series: curves, at least one with a finite value.
        log: logarithmic y axis; values that aren't positive are left out.
        zero: the y axis starts at 0.
    """
    curves = [np.where(s.y > 0, s.y, np.nan) if log else s.y for s in series]
    known = np.concatenate(curves)
    known = known[np.isfinite(known)]
    assert known.size, "nothing to draw"
    low, high = float(known.min()), float(known.max())
    y_range = (low / 1.5, high * 1.5) if log else _padded(min(low, 0.0) if zero else low, high, at_zero=zero)
    x_range = _step_range(np.concatenate([s.x for s in series]))
    frame = _Frame(340, 150, x_range, y_range, log)
    marks: list[str] = []
    for index, (s, y) in enumerate(zip(series, curves, strict=True)):
        marks += _curve(frame, s.x, y, f"c{index % COLORS}")
    return frame.svg(marks, _step_ticks(x_range))


def stacked_chart(x: Float64, parts: Mapping[str, Float64]) -> str:
    """Draw quantities that add up, stacked over steps; colours by their order, NaN counts as 0."""
    binned_parts = [_binned(x, np.nan_to_num(y), _MOST_POINTS) for y in parts.values()]
    centre = binned_parts[0][0]
    if centre.size == 1:  # A single step has no width: draw it as a short stretch around itself.
        centre = np.array([centre[0] - 0.4, centre[0] + 0.4])
        tops = np.cumsum([np.repeat(mean, 2) for _, mean, _, _ in binned_parts], axis=0)
    else:
        tops = np.cumsum([mean for _, mean, _, _ in binned_parts], axis=0)
    x_range = _step_range(x)
    frame = _Frame(340, 150, x_range, _padded(0.0, float(tops[-1].max()), at_zero=True))
    below = np.zeros_like(centre)
    marks = []
    for index, top in enumerate(tops):
        marks.append(_area(frame, centre, below, top, f"c{index % COLORS}", 0.85))
        below = top
    return frame.svg(marks, _step_ticks(x_range))


def score_chart(stages: Sequence[str], scores: Mapping[str, Sequence[tuple[float, float] | None]]) -> str:
    """Draw each domain's score over the stages, with error bars of one standard error.

    Args:
        stages: names, in order.
        scores: domain -> (score, standard error) per stage; None where it wasn't measured.
    """
    ends = [bound for row in scores.values() for v in row if v is not None for bound in (v[0] - v[1], v[0] + v[1])]
    assert ends, "nothing to draw"
    frame = _Frame(720, 230, (-0.4, len(stages) - 0.6), _padded(min(ends), max(ends)))
    marks = []
    for index, values in enumerate(scores.values()):
        color = f"c{index % COLORS}"
        # Side by side, so that equal scores stay visible.
        shift = 0.03 * (index - (len(scores) - 1) / 2)
        points = [(frame.x(i + shift), *value) for i, value in enumerate(values) if value is not None]
        marks.append(_path([(x, frame.y(score)) for x, score, _ in points], color, 1.8))
        marks += [_line(x, frame.y(score - e), x, frame.y(score + e), color, 1.2) for x, score, e in points]
        marks += [_dot(x, frame.y(score), color, 3.4) for x, score, _ in points]
    return frame.svg(marks, list(enumerate(stages)))


def calibration_chart(predicted: Sequence[float], observed: Sequence[float], counts: Sequence[int]) -> str:
    """Draw how often predictions of each confidence came true, against the diagonal; a dot's area is its count.

    Args:
        predicted: mean predicted probability of each bin, 0.5 to 1.
        observed: share that came true.
        counts: predictions in the bin.
    """
    assert counts, "nothing to draw"
    frame = _Frame(340, 230, (0.47, 1.03), (min(0.5, *observed) - 0.03, 1.03))
    marks = [_path([(frame.x(v), frame.y(v)) for v in (0.5, 1.0)], "muted", 1, opacity=0.6)]
    points = [(frame.x(p), frame.y(o)) for p, o in zip(predicted, observed, strict=True)]
    marks.append(_path(points, "c0", 1.8))
    most = max(counts)
    marks += [_dot(*point, "c0", 2 + 4 * math.sqrt(n / most)) for point, n in zip(points, counts, strict=True)]
    return frame.svg(marks, [(v, f"{v:g}") for v in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)])


def _curve(frame: _Frame, x: Float64, y: Float64, color: str) -> list[str]:
    centre, mean, low, high = _binned(x, y, _MOST_POINTS)
    marks = []
    if x.size > _MOST_POINTS:
        # Gaps have no range: the shading closes over them.
        known = np.isfinite(mean)
        marks.append(_area(frame, centre[known], low[known], high[known], color, 0.16))
    if mean.size > _PLAIN_POINTS:
        marks.append(_path(_points(frame, centre, mean), color, 0.9, opacity=0.35))
        mean = _running_mean(mean, max(3, mean.size // 12))
    marks.append(_path(_points(frame, centre, mean), color, 1.8))
    if mean.size <= _DOTTED_POINTS:
        marks += [_dot(*point, color, 2.6) for point in _points(frame, centre, mean) if point is not None]
    return marks


def _points(frame: _Frame, x: Float64, y: Float64) -> list[tuple[float, float] | None]:
    return [(frame.x(a), frame.y(b)) if math.isfinite(b) else None for a, b in zip(x, y, strict=True)]


def _binned(x: Float64, y: Float64, most: int) -> tuple[Float64, Float64, Float64, Float64]:
    """Return x and y means of at most `most` equal runs of points, and the least and greatest y of each."""
    count = min(most, x.size)
    edges = np.linspace(0, x.size, count + 1).round().astype(int)
    starts = edges[:-1]
    known = np.isfinite(y)
    sizes = np.add.reduceat(known.astype(np.float64), starts)
    centre = np.add.reduceat(x.astype(np.float64), starts) / np.diff(edges)
    mean = np.add.reduceat(np.where(known, y, 0.0), starts) / np.maximum(sizes, 1)
    low = np.minimum.reduceat(np.where(known, y, np.inf), starts)
    high = np.maximum.reduceat(np.where(known, y, -np.inf), starts)
    for values in (mean, low, high):
        values[sizes == 0] = np.nan
    return centre, mean, low, high


def _running_mean(y: Float64, width: int) -> Float64:
    """Return the centred mean over `width` points; the window shrinks towards the ends, so they stay in place."""
    known = np.isfinite(y)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(y.size)
    half = np.minimum(np.minimum(index, y.size - 1 - index), width // 2)
    first, last = index - half, index + half + 1
    inside = count[last] - count[first]
    return np.where(inside > 0, (total[last] - total[first]) / np.maximum(inside, 1), np.nan)


def _padded(low: float, high: float, at_zero: bool = False) -> tuple[float, float]:
    """Return the range with a margin; a single value gets a range around it."""
    span = high - low or abs(high) or 1.0
    return (low if at_zero else low - 0.08 * span), high + 0.08 * span


def _step_range(x: Float64) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    margin = max(0.5, 0.02 * (high - low))
    return low - margin, high + margin


def _step_ticks(x_range: tuple[float, float]) -> list[tuple[float, str]]:
    return [(value, label) for value, label in _ticks(*x_range, most=6) if value == int(value) and value >= 1]


def _ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Return round values in the range, at most `most` intervals apart, with their labels."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, _number(i * step)) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return powers of ten in the range, thinned to about four; within one decade, round values."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first < 1:
        return [(value, label) for value, label in _ticks(low, high, most=3) if value > 0]
    stride = max(1, math.ceil((last - first) / 4))
    return [(10.0**power, f"1e{power}") for power in range(first, last + 1, stride)]


def _number(value: float) -> str:
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scale = 1e3 if unit == "k" else limit
            return f"{value / scale:.6g}{unit}"
    return f"{value:.6g}"


def _path(points: Sequence[tuple[float, float] | None], color: str, width: float, opacity: float = 1) -> str:
    """Return a curve through the points; None lifts the pen."""
    data, pen_down = [], False
    for point in points:
        if point is not None:
            data.append(f"{'L' if pen_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        pen_down = point is not None
    style = f"fill:none;stroke:var(--{color});stroke-width:{width:g};stroke-linejoin:round"
    return f'<path d="{"".join(data)}" style="{style}" opacity="{opacity:g}"/>'


def _area(frame: _Frame, x: Float64, low: Float64, high: Float64, color: str, opacity: float) -> str:
    there = [f"{frame.x(a):.1f} {frame.y(b):.1f}" for a, b in zip(x, high, strict=True)]
    back = [f"{frame.x(a):.1f} {frame.y(b):.1f}" for a, b in zip(x[::-1], low[::-1], strict=True)]
    return f'<path d="M{"L".join(there + back)}Z" style="fill:var(--{color})" opacity="{opacity:g}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" style="stroke:var(--{color});stroke-width:{width:g}"/>'


def _dot(x: float, y: float, color: str, radius: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" style="fill:var(--{color})"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:var(--muted)">{escape(text)}</text>'
