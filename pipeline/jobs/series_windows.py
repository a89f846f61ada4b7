"""Statistics of each row's window in its series, block by block: what a series still needs is carried on.

Rows of all series lie behind each other, sorted by series, so that one pass does for a thousand of them; a window
that would cross into another series is none. Left out of windows are rows that cannot be reckoned with, and late
ones: those not later than a row of their series before them, as a worker and training have it. A series of one
partition is another one than a series of that name in another partition, as a worker has it, too.

Memory is that of a block and of `window - 1` rows of each series.

Legend: N rows of a block, C carried rows, R both, F features, S statistics.
"""

from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from models.window_statistics import window_statistics
from pipeline.jobs.blocks import PARTITION, Block, series_of


class SeriesCodes:
    """A number for each series, the same in all blocks."""

    def __init__(self, series: str | None, time: str | None) -> None:
        self._series, self._time = series, time
        self._number: dict[tuple[int, str], int] = {}
        self._newest_ms: IntArray = np.zeros(0, np.int64)
        """Of each series; the least there is before its first row."""

    def __len__(self) -> int:
        return len(self._number)

    def of(self, block: Block) -> IntArray:
        """Return the number of each row's series."""
        names, code_N = series_of(block, self._series)
        partition = block.columns.get(PARTITION)
        partition_N = np.zeros(len(block), np.int64) if not isinstance(partition, np.ndarray) else partition
        pairs, pair_N = np.unique(partition_N.astype(np.int64) * len(names) + code_N, return_inverse=True)
        numbers = [
            self._number.setdefault((pair // len(names), names[pair % len(names)]), len(self._number))
            for pair in pairs.tolist()
        ]
        return np.asarray(np.array(numbers, np.int64)[pair_N], np.int64)

    def on_time(self, block: Block, code_N: IntArray) -> BoolArray:
        """Tell which rows are later than all before them of their series, and remember the newest."""
        if self._time is None or not len(block):
            return np.ones(len(block), np.bool_)
        time_ms_N = block.columns[self._time]
        assert isinstance(time_ms_N, np.ndarray)
        newest_ms = np.full(len(self._number), np.iinfo(np.int64).min)
        newest_ms[: len(self._newest_ms)] = self._newest_ms
        order_N = np.argsort(code_N, kind="stable")
        sorted_N, moment_N = code_N[order_N], time_ms_N[order_N]
        first_N = np.append(True, sorted_N[1:] != sorted_N[:-1])
        # A running maximum within each series: as ranks they fit beside the series' number in one integer.
        known_N = np.maximum(moment_N, np.where(first_N, newest_ms[sorted_N], moment_N))
        levels, rank_N = np.unique(known_N, return_inverse=True)
        size = len(levels)
        running_N = levels[np.maximum.accumulate(sorted_N * size + rank_N) % size]
        before_N = np.where(first_N, newest_ms[sorted_N], np.append(0, running_N[:-1]))
        on_time_N = np.empty(len(block), np.bool_)
        on_time_N[order_N] = moment_N > before_N
        last_N = np.append(first_N[1:], True)
        newest_ms[sorted_N[last_N]] = running_N[last_N]
        self._newest_ms = newest_ms
        return on_time_N


@dataclass(frozen=True)
class Windowed:
    """What was found of a block's rows."""

    statistics_NS: FloatArray
    """NaN where a row has no whole window."""
    warming_N: BoolArray
    """Rows that count, whose series has too few before them for a window."""
    late_N: BoolArray


class SeriesWindows:
    """Goes through blocks, in their order."""

    def __init__(self, features: int, window: int, series: str | None, time: str | None) -> None:
        self._window = window
        self._codes = SeriesCodes(series, time)
        self._carried_CF = np.empty((0, features))
        self._carried_C: IntArray = np.zeros(0, np.int64)

    def passed(self, block: Block) -> None:
        """See the next rows, of which nothing is asked but what later ones need."""
        *_, sorted_R, x_RF = self._sorted(block)
        self._carry(sorted_R, x_RF)

    def of(self, block: Block) -> Windowed:
        """Return the statistics of the next rows."""
        late_N, counted, order_R, sorted_R, x_RF = self._sorted(block)
        # The row that comes `window - 1` before is of the same series: so are all between.
        before = self._window - 1
        whole_R = np.zeros(len(sorted_R), np.bool_)
        whole_R[before:] = sorted_R[before:] == sorted_R[:-before]
        statistics_RS = window_statistics(x_RF, self._window)
        place_R = order_R - len(self._carried_C)
        new_R = place_R >= 0
        statistics_NS = np.full((len(block), statistics_RS.shape[1]), np.nan)
        statistics_NS[counted[place_R[new_R & whole_R]]] = statistics_RS[new_R & whole_R]
        warming_N = np.zeros(len(block), np.bool_)
        warming_N[counted[place_R[new_R & ~whole_R]]] = True
        self._carry(sorted_R, x_RF)
        return Windowed(statistics_NS, warming_N, late_N)

    def _sorted(self, block: Block) -> tuple[BoolArray, IntArray, IntArray, IntArray, FloatArray]:
        """Return (late_N, numbers of the rows that count, their order behind the carried ones, series, values)."""
        code_N = self._codes.of(block)
        late_N = ~self._codes.on_time(block, code_N)
        counted = np.flatnonzero(block.usable_N & ~late_N)
        code_R = np.concatenate([self._carried_C, code_N[counted]])
        order_R = np.argsort(code_R, kind="stable")
        x_RF = np.concatenate([self._carried_CF, block.values_NF[counted]])[order_R]
        return late_N, counted, order_R, code_R[order_R], x_RF

    def _carry(self, sorted_R: IntArray, x_RF: FloatArray) -> None:
        """Keep the last `window - 1` rows of each series."""
        before = self._window - 1
        kept_R = np.ones(len(sorted_R), np.bool_)
        kept_R[:-before] = sorted_R[:-before] != sorted_R[before:]
        self._carried_C, self._carried_CF = sorted_R[kept_R], x_RF[kept_R]


class SeriesLengths:
    """Counts the rows of each series that count."""

    def __init__(self, series: str | None, time: str | None) -> None:
        self._codes = SeriesCodes(series, time)
        self.rows_S: IntArray = np.zeros(0, np.int64)

    def see(self, block: Block) -> None:
        code_N = self._codes.of(block)
        counted_N = block.usable_N & self._codes.on_time(block, code_N)
        rows_S = np.bincount(code_N[counted_N], minlength=len(self._codes))
        rows_S[: len(self.rows_S)] += self.rows_S
        self.rows_S = rows_S
