"""Curves -> small pieces of SVG and HTML that stretch with the page and take their colours from its style sheet.

Curves are drawn in an SVG that is stretched to its box, so text and round marks are HTML placed over it in
percent: they keep their shape at every width. A curve is thinned to the smallest and largest value of each
column of pixels, which looks the same as all of it.

Legend: N points, B buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray

WIDTH, HEIGHT = 2000, 400
"""Units of every plot, whatever size it is shown at."""

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_STEPS_MS = [_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, *(n * _DAY for n in (1, 2, 4, 7, 14, 28, 56, 112, 365, 1826))]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to a share of a plot's width or height."""

    low: float
    high: float

    def share(self, value: FloatArray | float) -> FloatArray:
        """Return 0 at the low end, 1 at the high end, and no further."""
        return np.clip((np.asarray(value, np.float64) - self.low) / ((self.high - self.low) or 1.0), 0.0, 1.0)


def axis_of(values_N: FloatArray, margin: float = 0.06) -> Axis:
    """Return an axis that holds all finite values with a margin on both sides."""
    finite = values_N[np.isfinite(values_N)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = (high - low or abs(high) or 1.0) * margin
    return Axis(low - room, high + room)


def line(x_N: FloatArray, y_N: FloatArray, x_axis: Axis, y_axis: Axis, buckets: int) -> str:
    """Return the `d` of a path through the points, thinned to two points for each of `buckets` columns."""
    points, breaks = _thinned(x_N, y_N, x_axis, buckets)
    return _path(x_N[points], y_N[points], breaks, x_axis, y_axis)


def area(x_N: FloatArray, y_N: FloatArray, x_axis: Axis, y_axis: Axis, buckets: int) -> str:
    """Return the `d` of the largest value of each column, as a filled shape over the lower edge."""
    column_N = np.minimum((x_axis.share(x_N) * buckets).astype(np.int64), buckets - 1)
    highest_B = np.full(buckets, -np.inf)
    known = np.isfinite(y_N)
    np.maximum.at(highest_B, column_N[known], y_N[known])
    filled = np.flatnonzero(np.isfinite(highest_B))
    top = HEIGHT - np.rint(y_axis.share(highest_B[filled]) * HEIGHT).astype(int)
    left = np.rint(filled * WIDTH / buckets).astype(int)
    right = np.rint((filled + 1) * WIDTH / buckets).astype(int)
    return "".join(
        f"M{a} {HEIGHT}V{y}H{b}V{HEIGHT}" for a, b, y in zip(left, right, top, strict=True) if y < HEIGHT
    )


def spans(ranges: Sequence[tuple[float, float]], x_axis: Axis) -> str:
    """Return shaded rectangles, none too narrow to be seen."""
    drawn = []
    for first, last in ranges:
        left, right = (float(x_axis.share(end)) * WIDTH for end in (first, last))
        width = max(right - left, 5.0)
        drawn.append(f'<rect class="span" x="{left:.0f}" y="0" width="{width:.0f}" height="{HEIGHT}"/>')
    return "".join(drawn)


def rug(x_K: Sequence[float], x_axis: Axis) -> str:
    """Return the `d` of short strokes on the lower edge."""
    across = np.unique(np.rint(x_axis.share(np.array(x_K, np.float64)) * WIDTH).astype(int))
    return "".join(f"M{x} {HEIGHT}v-{HEIGHT // 12}" for x in across.tolist())


def level(y: float, y_axis: Axis) -> str:
    """Return a dashed line across the plot."""
    top = HEIGHT * (1 - float(y_axis.share(y)))
    return f'<path class="level" d="M0 {top:.0f}H{WIDTH}"/>'


def canvas(inner: str) -> str:
    """Return an SVG that fills its box."""
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{inner}</svg>'


def time_axis(x_axis: Axis, most: int) -> str:
    """Return at most so many dates under a plot, at round hours or days."""
    step = next((step for step in _STEPS_MS if (x_axis.high - x_axis.low) / step <= most), _STEPS_MS[-1])
    at = np.arange(np.ceil(x_axis.low / step) * step, x_axis.high, step)
    form = "%b %d, %H:%M" if step < _DAY else "%b %d, %Y"
    return _ticks(at, [moment(ms, form) for ms in at], x_axis)


def count_axis(x_axis: Axis, most: int) -> str:
    """Return at most so many record numbers under a plot."""
    span = x_axis.high - x_axis.low
    step = next(step for n in range(12) for k in (1, 2, 5) if span / (step := k * 10**n) <= most)
    at = np.arange(np.ceil(x_axis.low / step) * step, x_axis.high, step)
    return _ticks(at, [f"{value:,.0f}" for value in at], x_axis)


def moment(ms: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime(form)


def short(value: float) -> str:
    """Return a number as people read it: four digits, thousands apart, no exponent unless it is huge."""
    if not np.isfinite(value):
        return "?"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ticks(at: npt.NDArray[np.floating], texts: Sequence[str], x_axis: Axis) -> str:
    places = [(float(x_axis.share(value)) * 100, text) for value, text in zip(at, texts, strict=True)]
    return "".join(f'<i style="left:{place:.2f}%">{escape(text)}</i>' for place, text in places if 3 <= place <= 95)


def _thinned(x_N: FloatArray, y_N: FloatArray, x_axis: Axis, buckets: int) -> tuple[IntArray, BoolArray]:
    """Return the points to draw, in order, and for each whether the curve is broken before it."""
    known = np.flatnonzero(np.isfinite(y_N))
    missing_N = np.cumsum(~np.isfinite(y_N))
    if len(known) > 2 * buckets:
        column = np.minimum((x_axis.share(x_N[known]) * buckets).astype(np.int64), buckets - 1)
        by_value = known[np.lexsort((y_N[known], column))]
        edges = np.flatnonzero(np.diff(column, prepend=-1))
        last = np.append(edges[1:], len(known)) - 1
        known = np.unique(np.concatenate([by_value[edges], by_value[last]]))
    return known, np.diff(missing_N[known], prepend=-1) > 0


def _path(x_N: FloatArray, y_N: FloatArray, breaks_N: BoolArray, x_axis: Axis, y_axis: Axis) -> str:
    across = np.rint(x_axis.share(x_N) * WIDTH).astype(int).tolist()
    down = (HEIGHT - np.rint(y_axis.share(y_N) * HEIGHT)).astype(int).tolist()
    steps = []
    here = (0, 0)
    for x, y, broken in zip(across, down, breaks_N.tolist(), strict=True):
        if broken:
            steps.append(f"M{x} {y}")
        else:
            dx, dy = x - here[0], y - here[1]
            if (dx, dy) == (0, 0):
                continue
            steps.append(f"l{dx} {dy}")
        here = (x, y)
    return "".join(steps)
