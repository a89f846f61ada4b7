"""The grid of a feature: which values it takes at all, learned from some, so that made-up ones fit among them.

A feature that takes few values takes no others (`levels`), and nor does one whose values come again and again and
show no other order. One whose values all lie whole steps apart, such as whole numbers, cents or multiples of a
sensor's resolution, goes on to (`step`). All else is continuous. Nothing leaves the range that was seen.

Legend: N rows, F features, U distinct values of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import FloatArray

_MOST_LEVELS, _ROWS_A_LEVEL = 32, 8
"""Values that are all there are: so few, and each seen so often on the mean."""
_MOST_DECIMALS = 9
_MOST_STEPS = 1e7
"""A finer grid is as good as none."""
_MOST_STEPS_A_VALUE = 64
_OFF = 1e-2
"""How far from the grid a value may lie, in steps: what rounding left."""
_ROUNDED = 1e-12
"""Of a feature's range, what is lost when it is scaled and scaled back."""
_LEAST_TO_GUESS = 8
"""Distinct values from which on a step may be told from the differences between them."""


@dataclass(frozen=True)
class Grid:
    """What one feature takes."""

    low: float
    high: float
    step: float | None = None
    levels: FloatArray | None = None
    """Of few values, all of them; of a step that was guessed, those that were seen."""
    often: FloatArray | None = None
    """Of a continuous feature, values that were there more than once."""

    @classmethod
    def of(cls, x_N: FloatArray) -> "Grid":
        """Learn it from finite values, of which there is one at least."""
        value_U, count_U = np.unique(x_N, return_counts=True)
        low, high = float(value_U[0]), float(value_U[-1])
        if len(value_U) == 1 or len(value_U) <= min(_MOST_LEVELS, len(x_N) / _ROWS_A_LEVEL):
            return cls(low, high, levels=value_U)
        if (step := _decimal_step(value_U)) is not None:
            return cls(low, high, step)
        step = _guessed_step(value_U)
        repeated = len(value_U) <= len(x_N) / _ROWS_A_LEVEL
        if repeated or step is not None:
            return cls(low, high, step, value_U)
        often = value_U[count_U > 1]
        return cls(low, high, often=often if len(often) else None)

    def snapped(self, x_N: FloatArray) -> FloatArray:
        """Return the value of the grid that is nearest to each."""
        x_N = np.clip(x_N, self.low, self.high)
        if self.step is None:
            return self._exact(x_N) if self.levels is None else _nearest(self.levels, x_N)
        return np.asarray(np.clip(self.stepped(x_N), self.low, self.high), np.float64)

    def stepped(self, x_N: FloatArray) -> FloatArray:
        """Return values whole steps apart, where there is a step, be they outside of the range: of anomalies."""
        if self.step is None:
            return x_N
        stepped_N = self.low + self.step * np.rint((x_N - self.low) / self.step)
        if self.levels is not None:
            seen_N = _nearest(self.levels, stepped_N)
            return np.where(np.abs(seen_N - stepped_N) < self.step / 2, seen_N, stepped_N)
        # What is written with few decimals is to be that number, to the last bit.
        decimals = _decimals_of(np.array([self.low, self.step]))
        return stepped_N if decimals is None else np.asarray(np.round(stepped_N, decimals), np.float64)

    def _exact(self, x_N: FloatArray) -> FloatArray:
        """Return what rounding has moved off a value that is there often as that value: a zero is to be zero."""
        if self.often is None:
            return x_N
        near_N = _nearest(self.often, x_N)
        return np.where(np.abs(near_N - x_N) <= _ROUNDED * (self.high - self.low), near_N, x_N)

    @property
    def told(self) -> dict[str, Any]:
        """What it is, for a report."""
        if self.step is not None:
            return {"grid": "step", "step": self.step, "low": self.low, "high": self.high}
        if self.levels is not None:
            return {"grid": "levels", "levels": self.levels.tolist(), "low": self.low, "high": self.high}
        return {"grid": "continuous", "low": self.low, "high": self.high}


def _nearest(known: FloatArray, x_N: FloatArray) -> FloatArray:
    middle = (known[:-1] + known[1:]) / 2
    return np.asarray(known[np.searchsorted(middle, x_N)], np.float64)


def grids_of(x_NF: FloatArray) -> list[Grid]:
    return [Grid.of(x_N) for x_N in x_NF.T]


def snapped(grids: Sequence[Grid], x_NF: FloatArray) -> FloatArray:
    return np.column_stack([grid.snapped(x_N) for grid, x_N in zip(grids, x_NF.T, strict=True)])


def _decimal_step(value_U: FloatArray) -> float | None:
    """Return the largest step of few decimals that all values lie whole numbers of apart; None: there is none."""
    width = value_U[-1] - value_U[0]
    decimals = _decimals_of(value_U)
    if decimals is None or width * 10.0**decimals >= 2**53:
        return None
    whole_U = np.rint((value_U - value_U[0]) * 10.0**decimals).astype(np.int64)
    step = float(np.gcd.reduce(np.diff(whole_U))) / 10.0**decimals
    return step if width / step <= min(_MOST_STEPS, _MOST_STEPS_A_VALUE * len(value_U)) or decimals <= 2 else None


def _guessed_step(value_U: FloatArray) -> float | None:
    """Return the step of scaled values, such as whole numbers divided by their largest; None: there is none.

    It is the smallest difference that there is, or a part of it.
    """
    width, least = value_U[-1] - value_U[0], np.diff(value_U).min()
    most = min(_MOST_STEPS, _MOST_STEPS_A_VALUE * len(value_U))
    if len(value_U) < _LEAST_TO_GUESS or width / least > most:
        return None
    for part in range(1, 5):
        steps = round(float(width / (least / part)))
        if steps > most:
            return None
        step = width / steps
        place_U = (value_U - value_U[0]) / step
        if np.abs(place_U - np.rint(place_U)).max() <= _OFF:
            return float(step)
    return None


def _decimals_of(value_U: FloatArray) -> int | None:
    """Return how many decimals write these values; None: more than are looked for, or they are too large."""
    if np.abs(value_U).max() >= 2**53:
        return None
    for decimals in range(_MOST_DECIMALS + 1):
        if (np.round(value_U, decimals) == value_U).all():
            return decimals
    return None
