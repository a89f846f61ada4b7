"""Slots, lateness and held values do not depend on how polls cut the stream."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols import TopicPartition
from pipeline.stages.decode import Batch
from pipeline.stages.series import SeriesTable

PLACE = TopicPartition("metrics", 0)
Row = tuple[str, int, float]
NAN = float("nan")


def batch(rows: Sequence[Row], first_offset: int = 0, place: TopicPartition = PLACE) -> Batch:
    count = len(rows)
    return Batch(
        place,
        [row[0] for row in rows],
        np.array([row[1] for row in rows], np.int64),
        np.array([[row[2], 1.0] for row in rows]).reshape(count, 2),
        np.arange(count),
        np.arange(first_offset, first_offset + count),
        np.full(count, -1),
    )


def table(hold_points: int = 0) -> SeriesTable:
    return SeriesTable(
        2, 4, known_scaling=lambda name: None, known_interval_ms=lambda name: None, hold_points=hold_points
    )


def admit_all(rows: Sequence[Row], cuts: Sequence[int], hold_points: int) -> tuple[set[object], set[object], int]:
    """Admit the rows in polls cut at these places; return what became of each offset."""
    series, points, lacking, late = table(hold_points), set[object](), set[object](), 0
    edges = [0, *sorted(cuts), len(rows)]
    for low, high in pairwise(edges):
        admitted = series.admit([batch(rows[low:high], low)])
        p = admitted.points
        for i in range(len(p)):
            name = series.names[p.slot_M[i]]
            value = tuple(p.values_MF[i].tolist())
            points.add((name, int(p.offset_M[i]), int(p.index_M[i]), value, bool(p.held_M[i])))
        lacking |= {(row + low, why) for _, row, _, why in admitted.lacking}
        late += admitted.late
    return points, lacking, late


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.sampled_from([1.0, 2.0, NAN])),
    min_size=1,
    max_size=40,
)


@given(rows=rows, cuts=st.lists(st.integers(0, 40), max_size=5), hold_points=st.integers(1, 3))
def test_polls_do_not_matter(rows: list[Row], cuts: list[int], hold_points: int) -> None:
    cuts = [cut for cut in cuts if cut <= len(rows)]
    assert admit_all(rows, cuts, hold_points) == admit_all(rows, [], hold_points)


def test_late_and_doubled_points_are_left_out() -> None:
    admitted = table().admit([batch([("a", 10, 1), ("a", 10, 2), ("b", 5, 3), ("a", 9, 4), ("a", 11, 5)])])
    assert admitted.late == 2
    assert admitted.points.values_MF[:, 0].tolist() == [1, 5, 3]
    assert admitted.points.index_M.tolist() == [0, 1, 0]


def test_a_missing_feature_is_held_for_so_many_points() -> None:
    series = table(hold_points=2)
    values = [NAN, 3.0, NAN, NAN, NAN, 4.0, NAN]
    admitted = series.admit([batch([("a", time, value) for time, value in enumerate(values)])])
    assert admitted.points.values_MF[:, 0].tolist() == [3, 3, 3, 4, 4]
    assert admitted.points.held_M.tolist() == [False, True, True, False, True]
    assert [(row, why) for _, row, _, why in admitted.lacking] == [(0, "missing_field"), (4, "held_too_long")]


def test_a_partition_takes_its_series_along() -> None:
    series, other = table(), TopicPartition("metrics", 1)
    first = series.admit([batch([("a", 1, 1), ("b", 1, 1)])])
    assert first.moved == 0
    assert series.admit([batch([("a", 1, 1)], place=other)]).moved == 1
    assert len(series) == 3
    freed = series.drop(PLACE)
    assert sorted(freed.tolist()) == [0, 1]
    again = series.admit([batch([("c", 0, 1), ("d", 0, 1)])])
    assert sorted(again.points.slot_M.tolist()) == [0, 1]
    assert again.points.index_M.tolist() == [0, 0]


@pytest.mark.parametrize("cuts", [[], [1], [2, 3], [1, 2, 3, 4]])
def test_the_interval_is_the_usual_step_of_the_first_window(cuts: list[int]) -> None:
    """One gap in it would lower the threshold of the series for good."""
    series, rows = table(), [(name, time, 1.0) for time in (0, 10, 7000, 7010, 9000) for name in "ab"]
    for low, high in pairwise([0, *(2 * cut for cut in cuts), len(rows)]):
        series.admit([batch(rows[low:high], low)])
    assert series.columns["interval_ms"][:2].tolist() == [10, 10]


def test_a_slot_given_away_again_begins_with_no_steps() -> None:
    series = table()
    series.admit([batch([("a", time, 1) for time in (0, 500, 1000)])])
    series.drop(PLACE)
    series.admit([batch([("b", time, 1) for time in (0, 10, 20, 30)])])
    assert series.columns["interval_ms"][0] == 10


def test_growth_keeps_what_is_known() -> None:
    series = table()
    names = [f"s{i}" for i in range(300)]
    series.admit([batch([(name, 1, i) for i, name in enumerate(names)])])
    admitted = series.admit([batch([(name, 1, 0) for name in names])])
    assert (admitted.late, len(admitted.points)) == (300, 0)
