"""The newest rows of each series: late ones left out, gaps and holes cut, memory bounded."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from pipeline.connectors.parquet import Coded
from pipeline.jobs import newest_rows as module
from pipeline.jobs.blocks import Block, Column
from pipeline.jobs.newest_rows import SeriesRows, newest_rows

MINUTE_MS = 60_000


class Blocks:
    """Rows that stand in memory."""

    features: tuple[str, ...] = ("x",)
    names: Sequence[str] = ("time_ms", "series")
    series: str | None = "series"
    time: str | None = "time_ms"

    def __init__(self, *blocks: tuple[list[int], list[str], list[float]]) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterator[Block]:
        for minute_N, name_N, x_N in self._blocks:
            known = sorted(set(name_N))
            coded = Coded(known, np.array([known.index(name) for name in name_N]))
            columns: dict[str, Column] = {"time_ms": MINUTE_MS * np.array(minute_N), "series": coded}
            yield Block(columns, np.array(x_N, np.float64)[:, None])


def test_late_rows_are_counted_and_left_out_across_blocks() -> None:
    found = newest_rows(
        Blocks(([1, 1, 3, 2], ["a", "b", "a", "a"], [1, 10, 3, 2]), ([2, 3, 4], ["b", "a", "a"], [20, 30, 4])),
        lambda rows: None,
    )
    assert (found.rows, found.late, found.unusable) == (7, 2, 0)
    assert found.of["a"].values_NF[:, 0].tolist() == [1, 3, 4]
    assert found.of["b"].values_NF[:, 0].tolist() == [10, 20]


def test_stretches_end_at_gaps_and_at_rows_that_lack_a_number() -> None:
    minute_N = np.append(np.arange(10), 100 + np.arange(5))
    x_N = np.arange(15.0)
    x_N[3] = np.nan
    rows = SeriesRows(MINUTE_MS * minute_N, x_N[:, None])
    parts = [part[:, 0].tolist() for part in rows.stretches(0, 15)]
    assert parts == [[0, 1, 2], [4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    window_TF = rows.window_at(9 * MINUTE_MS + 5, 4)
    assert window_TF is not None
    assert window_TF[:, 0].tolist() == [6, 7, 8, 9]
    assert rows.window_at(5 * MINUTE_MS, 4) is None
    assert rows.window_at(101 * MINUTE_MS, 4) is None


def test_of_too_many_rows_the_newest_of_each_series_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 40)
    blocks = [(list(range(20 * n, 20 * n + 20)), ["a"] * 20, [float(n)] * 20) for n in range(10)]
    blocks.append(([1, 2, 3], ["b"] * 3, [7.0] * 3))
    found = newest_rows(Blocks(*blocks), lambda rows: None)
    assert found.held <= 43
    assert found.of["a"].time_ms_N[-1] == 199 * MINUTE_MS
    assert found.of["b"].values_NF[:, 0].tolist() == [7, 7, 7]
