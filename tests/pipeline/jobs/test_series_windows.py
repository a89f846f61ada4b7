"""Windows of series over blocks: the same as over each series by itself, wherever the blocks are cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.window_statistics import window_statistics
from pipeline.connectors.parquet import Coded
from pipeline.jobs.blocks import Block, recut
from pipeline.jobs.series_windows import SeriesLengths, SeriesWindows

WINDOW = 4


def block(names: list[str], time_ms: list[int], x_NF: Any, partitions: list[int] | None = None) -> Block:
    known = sorted(set(names))
    columns: dict[str, Any] = {
        "partition": np.array(partitions or [0] * len(names), np.int32),
        "series": Coded(known, np.array([known.index(name) for name in names], np.int64)),
        "time_ms": np.array(time_ms, np.int64),
    }
    return Block(columns, np.asarray(x_NF, np.float64))


def found(blocks: list[Block]) -> tuple[Any, Any, Any]:
    windows = SeriesWindows(blocks[0].values_NF.shape[1], WINDOW, "series", "time_ms")
    each = [windows.of(part) for part in blocks]
    statistics_NS, warming_N, late_N = (
        np.concatenate([getattr(one, name) for one in each]) for name in ("statistics_NS", "warming_N", "late_N")
    )
    return statistics_NS, warming_N, late_N


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=80,
    ),
    size=st.integers(1, 30),
)
def test_each_series_has_its_own_windows(rows: list[tuple[str, int, int, bool]], size: int) -> None:
    x_NF = np.random.default_rng(len(rows)).standard_normal((len(rows), 2))
    x_NF[[missing for _, _, _, missing in rows], 1] = np.nan
    names, time_ms, partitions = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    whole = block(names, time_ms, x_NF, partitions)
    statistics, warming, late = found(list(recut([whole], size)))
    for series in set(zip(names, partitions, strict=True)):
        own = [number for number, row in enumerate(rows) if (row[0], row[2]) == series]
        newest, counted = -1, []
        for number in own:
            is_late = time_ms[number] <= newest
            assert late[number] == is_late
            newest = max(newest, time_ms[number])
            if not is_late and not rows[number][3]:
                counted.append(number)
        left_out = sorted(set(own) - set(counted))
        assert np.isnan(statistics[left_out]).all()
        assert not warming[left_out].any()
        assert warming[counted[: WINDOW - 1]].all()
        assert np.isnan(statistics[counted[: WINDOW - 1]]).all()
        expected = window_statistics(x_NF[counted], WINDOW)[WINDOW - 1 :] if counted else np.empty((0, 10))
        assert not warming[counted[WINDOW - 1 :]].any()
        assert np.allclose(statistics[counted[WINDOW - 1 :]], expected, rtol=1e-12, atol=1e-12)


def test_statistics_are_those_of_the_window() -> None:
    x_NF = np.array([[1.0], [2.0], [3.0], [8.0], [4.0]])
    statistics, warming, _ = found([block(["a"] * 5, list(range(5)), x_NF)])
    assert warming.tolist() == [True, True, True, False, False]
    mean, std, low, high, slope = statistics[3]
    assert (mean, low, high) == (3.5, 1.0, 8.0)
    assert std == pytest.approx(np.std([1, 2, 3, 8]))
    assert slope == pytest.approx(np.polyfit(range(4), [1, 2, 3, 8], 1)[0])


def test_rows_of_each_series_are_counted() -> None:
    lengths = SeriesLengths("series", "time_ms")
    x_NF = np.ones((4, 1))
    lengths.see(block(["a", "b", "a", "a"], [1, 1, 2, 2], x_NF))
    lengths.see(block(["b", "c", "b", "b"], [2, 1, 3, 4], x_NF * [[1], [1], [np.nan], [1]]))
    assert lengths.rows_S.tolist() == [2, 3, 1]
