"""The newest rows of each series, as stretches without a gap, in bounded memory.

Rows that are late, not later than one of their series before them, are left out as a worker does. A stretch ends at
a row that lacks a number, and where ten times as long passes as is usual between two rows.

Legend: N rows, F features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.arrays import FloatArray, IntArray
from models.dataset import usable_rows
from pipeline.jobs.blocks import Block, Input, series_of

_MOST_ROWS, _MOST_VALUES = 2**21, 2**24
"""Of all series together: 128 MiB of values at most."""
_LONG_GAP = 10.0
_NO_TIME_MS = 1_000
"""Between two rows where nothing tells times."""


@dataclass(frozen=True)
class SeriesRows:
    """What is held of one series."""

    time_ms_N: IntArray
    values_NF: FloatArray

    @property
    def interval_ms(self) -> int:
        steps = np.diff(self.time_ms_N)
        return max(1, round(float(np.median(steps)))) if len(steps) else _NO_TIME_MS

    def stretches(self, begin: int, end: int) -> list[FloatArray]:
        """Return the rows from `begin` to before `end`, cut at gaps, without those that lack a number."""
        time_ms_N, values_NF = self.time_ms_N[begin:end], self.values_NF[begin:end]
        usable = np.flatnonzero(usable_rows(values_NF))
        if not len(usable):
            return []
        gap_N = np.diff(time_ms_N[usable]) > _LONG_GAP * self.interval_ms
        cuts = np.flatnonzero(gap_N | (np.diff(usable) > 1)) + 1
        return [values_NF[part] for part in np.split(usable, cuts)]

    def window_at(self, moment_ms: int, window: int) -> FloatArray | None:
        """Return the window that ends with the last row not later than a moment; None where there is none whole."""
        end = int(np.searchsorted(self.time_ms_N, moment_ms, side="right"))
        if end < window:
            return None
        found = self.stretches(end - window, end)
        return found[0] if len(found) == 1 and len(found[0]) == window else None


@dataclass
class Newest:
    """What was read, and what is held of it."""

    of: dict[str, SeriesRows] = field(default_factory=dict)
    rows: int = 0
    unusable: int = 0
    late: int = 0

    @property
    def held(self) -> int:
        return sum(len(own.values_NF) for own in self.of.values())


def newest_rows(source: Input, progress: Callable[[int], None]) -> Newest:
    """Read all rows, and hold the newest ones of each series."""
    most = max(1, min(_MOST_ROWS, _MOST_VALUES // len(source.features)))
    found, parts = Newest(), dict[str, list[SeriesRows]]()
    last_ms: dict[str, int] = {}
    held = 0
    for block in source.blocks():
        for name, rows in _of_series(source, block, found.rows):
            time_ms_N = rows.time_ms_N
            before_N = np.append(last_ms.get(name, np.iinfo(np.int64).min), np.maximum.accumulate(time_ms_N)[:-1])
            on_time = np.flatnonzero(time_ms_N > np.maximum(before_N, before_N[0]))
            found.late += len(time_ms_N) - len(on_time)
            if len(on_time):
                parts.setdefault(name, []).append(SeriesRows(time_ms_N[on_time], rows.values_NF[on_time]))
                last_ms[name] = int(time_ms_N[on_time[-1]])
                held += len(on_time)
        found.rows += len(block)
        found.unusable += int((~block.usable_N).sum())
        if held > 2 * most:
            parts = {name: [_joined(own, most // len(parts) or 1)] for name, own in parts.items()}
            held = sum(len(own[0].values_NF) for own in parts.values())
        progress(found.rows)
    found.of = {name: _joined(own, most // len(parts) or 1) for name, own in parts.items()}
    return found


def _of_series(source: Input, block: Block, first: int) -> Iterator[tuple[str, SeriesRows]]:
    if source.time is None:
        time_ms_N = (first + np.arange(len(block))) * _NO_TIME_MS
    else:
        column = block.columns[source.time]
        assert isinstance(column, np.ndarray)
        time_ms_N = column.astype(np.int64)
    names, code_N = series_of(block, source.series)
    order_N = np.argsort(code_N, kind="stable")
    borders = np.flatnonzero(np.diff(code_N[order_N])) + 1
    for own in np.split(order_N, borders):
        if len(own):
            yield names[int(code_N[own[0]])], SeriesRows(time_ms_N[own], block.values_NF[own])


def _joined(parts: Sequence[SeriesRows], most: int) -> SeriesRows:
    time_ms_N = np.concatenate([part.time_ms_N for part in parts])[-most:]
    return SeriesRows(time_ms_N, np.concatenate([part.values_NF for part in parts])[-most:])
