"""Anomalies put into real series, with labels: what a detector should find, at a size that is stated.

Six faults of what sends the values. In a series: a *spike* of some points; a *level* that is another one for a
while; a *drift* away from it; a line that is *flat*, as of a sensor that is stuck; a changed *correlation*: some
features go on as at another time, each by itself as usual; a changed *period*: all of them at another pace. Records
that are judged one by one know spikes and correlations. What may befall images is told in `models.image_faults`.

A size is in units of the series' own robust spread. Spikes and levels lie so far off, drifts end there. For a
correlation another time is taken, for a period another pace, with which values move about so far on the mean, as
far as the series has one: `Injected.moved` says how far it was. A flat line has no size but its length.

Everything follows from a seed.

Legend: T rows of a series, N rows of a span, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.arrays import BoolArray, FloatArray
from models.spec import Kind

Fault = Literal["spike", "level", "drift", "flat", "correlation", "period", "cover", "noise", "shade"]
_OF_SERIES: tuple[Fault, ...] = ("spike", "level", "drift", "flat", "correlation", "period")
_OF_RECORDS: tuple[Fault, ...] = ("spike", "correlation")
_OF_IMAGES: tuple[Fault, ...] = ("cover", "noise", "shade")
_TIMES = 16
"""So many other times are looked at for a correlation."""
_PACES = (1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0)
_NORMAL_QUARTILES = 1.349
_NORMAL_NINE_TENTHS = 3.290
"""Widths of the middle half, and of the middle nine tenths, of a normal distribution."""


@dataclass(frozen=True)
class Anomaly:
    """What to put in."""

    fault: Fault
    size: float
    """In units of the spread."""
    points: int

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"an anomaly has 1 point or more, not {self.points}")
        if not 0 <= self.size < np.inf:
            raise ValueError(f"the size of an anomaly is a number of 0 or more, not {self.size}")


@dataclass(frozen=True)
class Injected:
    """A labelled span of a series: rows `begin` to `end`, the last one excluded."""

    anomaly: Anomaly
    begin: int
    end: int
    features: tuple[int, ...]
    moved: float
    """By how much these features' values lie off what they were, on the mean, in units of the spread."""


def faults_of(kind: Kind, features: int) -> tuple[Fault, ...]:
    """Return the faults that a stream of this kind can have: a single feature correlates with none."""
    if kind == "images":
        return _OF_IMAGES
    faults = _OF_SERIES if kind == "series" else _OF_RECORDS
    return tuple(fault for fault in faults if features > 1 or fault != "correlation")


def spread_of(x_TF: FloatArray) -> FloatArray:
    """Return a robust standard deviation of each feature, never zero.

    A feature that is nearly always the same has the width of its nine tenths or of all its values, one that never
    moves its own magnitude, or 1.
    """
    low_F, lower_F, upper_F, high_F = np.quantile(x_TF, [0.05, 0.25, 0.75, 0.95], axis=0)
    spread_F = np.zeros(x_TF.shape[1])
    for width_F in (
        (upper_F - lower_F) / _NORMAL_QUARTILES,
        (high_F - low_F) / _NORMAL_NINE_TENTHS,
        np.ptp(x_TF, axis=0) / _NORMAL_NINE_TENTHS,
        np.abs(x_TF).max(axis=0),
        np.ones(x_TF.shape[1]),
    ):
        spread_F = np.where(spread_F > 0, spread_F, width_F)
    return spread_F


def inject(
    x_TF: FloatArray, free_T: BoolArray, anomalies: Sequence[Anomaly], gap: int, spread_F: FloatArray, seed: int
) -> tuple[FloatArray, list[Injected]]:
    """Return a series with as many of the anomalies as there is room for, and where they are.

    Args:
        x_TF: finite values; they are not changed.
        free_T: rows that may be touched.
        anomalies: in this order.
        gap: rows between two of them.
        spread_F: as `spread_of` has it, of more rows perhaps.
        seed: of places, features, signs and times.
    """
    random = np.random.default_rng(seed)
    changed_TF, found = x_TF.copy(), list[Injected]()
    spare = len(x_TF) + gap - sum(anomaly.points + gap for anomaly in anomalies)
    place = 0
    for number, anomaly in enumerate(anomalies):
        even = max(spare, 0) // (len(anomalies) - number)
        begin = _next_free(free_T, place + int(random.integers(0, 2 * even + 1)), anomaly.points)
        if begin + anomaly.points > len(x_TF):
            # What spreads them over the series may have skipped the last room that there is.
            begin = _next_free(free_T, place, anomaly.points)
        if begin + anomaly.points > len(x_TF):
            continue
        injected, rows_NF = _faulty(x_TF, anomaly, begin, spread_F, random)
        changed_TF[begin : injected.end, list(injected.features)] = rows_NF
        found.append(injected)
        spare -= begin - place
        place = injected.end + gap
    return changed_TF, found


def _next_free(free_T: BoolArray, place: int, points: int) -> int:
    """Return the first row from `place` on at which so many rows are free; beyond the end where there is none."""
    taken = np.flatnonzero(~free_T[place:]) + place
    for blocked in taken.tolist():
        if blocked >= place + points:
            break
        place = blocked + 1
    return place


def _faulty(
    x_TF: FloatArray, anomaly: Anomaly, begin: int, spread_F: FloatArray, random: np.random.Generator
) -> tuple[Injected, FloatArray]:
    """Return what is injected from row `begin` on, and the new values of its features."""
    features, points = x_TF.shape[1], anomaly.points
    # Few features fail at once; those that no longer belong together leave others to belong to.
    most = max(1, features // 3) if anomaly.fault != "correlation" else features // 2
    chosen = np.sort(random.choice(features, int(random.integers(1, most + 1)), replace=False))
    if anomaly.fault == "period":
        chosen = np.arange(features)
    x_NF, spread_F = x_TF[begin : begin + points, chosen], spread_F[chosen]
    if anomaly.fault == "flat":
        rows_NF = np.repeat(x_NF[:1], points, axis=0)
    elif anomaly.fault == "correlation":
        elsewhere = random.integers(0, len(x_TF) - points + 1, _TIMES)
        rows_NF = _nearest([x_TF[at : at + points, chosen] for at in elsewhere], x_NF, anomaly.size, spread_F)
    elif anomaly.fault == "period":
        rows_NF = _nearest(_paced(x_TF, begin, points), x_NF, anomaly.size, spread_F)
    else:
        far_N = np.linspace(1 / points, 1, points) if anomaly.fault == "drift" else np.ones(points)
        sign_F = random.choice([-1.0, 1.0], len(chosen))
        rows_NF = x_NF + anomaly.size * far_N[:, None] * sign_F * spread_F
    moved = _moved(rows_NF, x_NF, spread_F)
    return Injected(anomaly, begin, begin + points, tuple(chosen.tolist()), moved), rows_NF


def _paced(x_TF: FloatArray, begin: int, points: int) -> list[FloatArray]:
    """Return the rows from `begin` on at each other pace for which the series goes on long enough."""
    at_T, paced = np.arange(len(x_TF)), []
    for pace in _PACES:
        at_N = begin + pace * np.arange(points)
        if at_N[-1] <= len(x_TF) - 1:
            paced.append(np.column_stack([np.interp(at_N, at_T, x_T) for x_T in x_TF.T]))
    return paced


def _nearest(candidates: Sequence[FloatArray], x_NF: FloatArray, size: float, spread_F: FloatArray) -> FloatArray:
    """Return the rows that lie about `size` off."""
    return min(candidates, key=lambda rows_NF: abs(_moved(rows_NF, x_NF, spread_F) - size))


def _moved(rows_NF: FloatArray, x_NF: FloatArray, spread_F: FloatArray) -> float:
    return float((np.abs(rows_NF - x_NF) / spread_F).mean())
