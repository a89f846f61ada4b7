"""Windows from columns, and the split by time.

Legend: T rows of a series, W window, N windows, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from models.spec import shortened

Rows = tuple[IntArray, FloatArray]
Columns = Mapping[str, Rows]
"""Series name -> (event times in ms, strictly later each; values x_TF)."""
LARGEST_VALUE = 1e150
"""A row with a larger value is left out of training: ranges and squares of such values overflow."""


def usable_rows(x_NF: FloatArray) -> BoolArray:
    """Tell for each row whether all of its values are finite and can be reckoned with."""
    # NaN compares as false. Where all rows are usable, which is nearly always, the extremes tell.
    if x_NF.size and x_NF.min() >= -LARGEST_VALUE and x_NF.max() <= LARGEST_VALUE:
        return np.ones(len(x_NF), np.bool_)
    return np.asarray((np.abs(x_NF) <= LARGEST_VALUE).all(axis=1), dtype=np.bool_)


def rows_where(which_N: BoolArray, time_ms_N: IntArray, x_NF: FloatArray) -> Rows:
    """Return some rows of a series; the arrays themselves where it is all of them, for a history may be long."""
    return (time_ms_N, x_NF) if which_N.all() else (time_ms_N[which_N], x_NF[which_N])


@dataclass(frozen=True)
class Windows:
    """Every window of several scaled series, as starts in one flat array; none crosses a series' end."""

    z_RF: npt.NDArray[np.float32]
    start_N: IntArray
    window: int
    first_S: IntArray
    """Number of each series' first window."""

    def take(self, chosen: IntArray) -> npt.NDArray[np.float32]:
        """Return these windows as z_NWF."""
        rows: npt.NDArray[np.float32] = self.z_RF[self.start_N[chosen][:, None] + np.arange(self.window)]
        return rows

    def drawn(self, chosen_N: IntArray, count: int, random: np.random.Generator) -> IntArray:
        """Draw so many of these windows, in which every series has its say.

        Half of the places are shared out evenly among series, as far as they have windows; the others are open to
        all.
        """
        shuffled_N = random.permutation(chosen_N)
        if len(shuffled_N) <= count:
            return shuffled_N
        series_N = np.searchsorted(self.first_S, shuffled_N, side="right")
        order_N = np.argsort(series_N, kind="stable")
        _, begin_S, length_S = np.unique(series_N[order_N], return_index=True, return_counts=True)
        rank_N = np.empty_like(order_N)
        rank_N[order_N] = np.arange(len(order_N)) - np.repeat(begin_S, length_S)
        reserved_N = rank_N < max(1, count // (2 * len(begin_S)))
        return shuffled_N[np.argsort(~reserved_N, kind="stable")[:count]]


def windows_of(series: Sequence[npt.NDArray[np.float32]], window: int) -> Windows:
    """Lay series behind each other, each padded, and list a window for each row, which ends there."""
    first = np.cumsum([0, *(len(z_TF) + window - 1 for z_TF in series)])
    starts = [low + np.arange(len(z_TF)) for low, z_TF in zip(first, series, strict=False)]
    rows_RF = np.concatenate([padded(z_TF, window - 1) for z_TF in series])
    first_S = np.cumsum([0, *(len(each) for each in starts[:-1])])
    return Windows(rows_RF, np.concatenate(starts), window, first_S)


def padded(z_TF: npt.NDArray[np.float32], padding: int) -> npt.NDArray[np.float32]:
    """Return a series that stood still for `padding` rows before it began, so that each row has a window."""
    return np.concatenate([np.repeat(z_TF[:1], padding, axis=0), z_TF])


def split_by_time(length: int, held_out: float) -> tuple[slice, slice]:
    """Return the earlier part for learning and the last part for stopping."""
    cut = length - int(length * held_out)
    return slice(0, cut), slice(cut, length)


class TooFewRows(ValueError):
    """No series is long enough to train on; where more rows come from, the caller knows."""


def pieces_of(time_ms_T: IntArray, begins_ms: Sequence[int]) -> list[slice]:
    """Return the rows of each piece of a series, the first of which ends before the first of these moments."""
    borders = np.unique(np.append(np.searchsorted(time_ms_T, np.asarray(begins_ms, np.int64)), [0, len(time_ms_T)]))
    return [slice(begin, end) for begin, end in pairwise(borders.tolist())]


def checked(
    columns: Columns,
    window: int,
    features: Sequence[str],
    needed: int,
    begins_ms: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[IntArray, FloatArray]]:
    """Return the series that can be trained on: finite rows, and at least twice the shortest `window` of them.

    `needed` is how many rows of one series are asked for where there is none. A piece, of those that begin at
    `begins_ms`, that is shorter than the window is left out.

    Raises:
        TooFewRows: there is none.
        ValueError: a feature has no finite value in any row, or a series' times do not go on.
    """
    usable = {}
    for name, (time_ms_T, x_TF) in columns.items():
        _check_order(name, time_ms_T)
        finite_T = usable_rows(x_TF)
        for piece in pieces_of(time_ms_T, (begins_ms or {}).get(name, ())):
            finite_T[piece] &= finite_T[piece].sum() >= window
        if finite_T.sum() >= 2 * window:
            usable[name] = rows_where(finite_T, time_ms_T, x_TF)
    if not usable:
        check_features([x_TF for _, x_TF in columns.values()], features)
        longest = max((int(usable_rows(x_TF).sum()) for _, x_TF in columns.values()), default=0)
        raise TooFewRows(
            f"the longest of {len(columns):,} series has {longest:,} finite rows; training needs {needed:,} of one "
            "series"
        )
    return usable


def check_features(parts: Sequence[FloatArray], features: Sequence[str]) -> None:
    """Refuse features that no row has a usable value of, by their names.

    Raises:
        ValueError: there are some.
    """
    seen_F = np.zeros(len(features), np.bool_)
    for x_NF in parts:
        seen_F |= (np.abs(x_NF) <= LARGEST_VALUE).any(axis=0)
    if any(len(x_NF) for x_NF in parts) and not seen_F.all():
        never = [name for name, seen in zip(features, seen_F.tolist(), strict=True) if not seen]
        raise ValueError(f"no row has a finite value of: {shortened(never)}; leave out such features")


def _check_order(name: str, time_ms_T: IntArray) -> None:
    still = np.flatnonzero(np.diff(time_ms_T) <= 0)
    if len(still):
        raise ValueError(
            f"the times of series {name!r} repeat or go back {len(still):,} times, first in row {still[0] + 1:,}; "
            "sort the rows by time and keep one of equal ones"
        )
