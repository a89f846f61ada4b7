"""Who has to leave, and when, follows from offsets and event times alone, as a plain model of the rules has it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols import TopicPartition
from pipeline.stages import bounds as rules
from pipeline.stages.bounds import SPANS, Bounds
from pipeline.stages.decode import Batch
from pipeline.stages.series import SeriesTable

PLACE, OTHER = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
Row = tuple[str, int]
"""Name, and event time in spans."""
SPAN_MS = 10


def table(bounds: Bounds) -> SeriesTable:
    return SeriesTable(1, 4, known_scaling=lambda name: None, known_interval_ms=lambda name: None, bounds=bounds)


def batch(rows: Sequence[Row], first: int, place: TopicPartition = PLACE, packed: int | None = None) -> Batch:
    """Return rows as a batch, `packed` of them in a record, or each as a record; the first has this number."""
    number_N = np.arange(first, first + len(rows))
    time_ms_N, none_N = np.array([SPAN_MS * time for _, time in rows], np.int64), np.full(len(rows), -1)
    values_NF, names = number_N[:, None].astype(float), [name for name, _ in rows]
    if packed is None:
        return Batch(place, names, time_ms_N, values_NF, number_N - first, number_N, none_N)
    unique, code_N = np.unique(np.array(names, object), return_inverse=True)
    offset_N, inner_N = number_N // packed, number_N % packed
    return Batch(place, unique.tolist(), time_ms_N, values_NF, offset_N - first, offset_N, none_N, inner_N, code_N)


def expected(rows: Sequence[Row], bounds: Bounds) -> tuple[list[Any], dict[int, int]]:
    """Return (who left, at which offset, why), and how many points each offset's series had before it."""
    seen: dict[str, list[int]] = {}
    left: list[Any] = []
    index_of: dict[int, int] = {}
    highest = -1
    for offset, (name, time) in enumerate(rows):
        if bounds.ttl_ms is not None and time > highest:
            highest = time
            outlived = [each for each, (_, span, _, _) in seen.items() if span < highest - SPANS]
            left += sorted((each, offset, "series_ttl") for each in outlived)
            for each in outlived:
                del seen[each]
        if name not in seen:
            while bounds.max_series is not None and len(seen) >= bounds.max_series:
                oldest = min(seen, key=lambda each: seen[each][0])
                left.append((oldest, offset, "max_series"))
                del seen[oldest]
            seen[name] = [offset, highest, 0, -1]
        _, _, count, last = seen[name]
        admitted = time > last
        if admitted:
            index_of[offset] = count
        seen[name] = [offset, highest, count + admitted, max(last, time)]
    return left, index_of


def found(
    series: SeriesTable, rows: Sequence[Row], first: int, packed: int | None = None
) -> tuple[list[Any], dict[int, int]]:
    series.take_evicted()
    admitted = series.admit([batch(rows, first, packed=packed)])
    points, of_record = admitted.points, packed or 1
    left = [(series.names[each.slot], each.offset * of_record + each.row, each.reason) for each in admitted.evicted]
    assert [each.place for each in admitted.evicted] == [number - first for _, number, _ in left]
    number_M = points.offset_M * of_record + points.inner_M
    return left, dict(zip(number_M.tolist(), points.index_M.tolist(), strict=True))


def carried_over(series: SeriesTable, bounds: Bounds) -> SeriesTable:
    """Return another table that took the state over, as from a checkpoint."""
    series.take_evicted()
    slots, other = series.held(PLACE), table(bounds)
    arrays = {**series.snapshot(slots), **series.snapshot_bounds(PLACE)}
    other.add_all(OTHER, ["in the way"])
    taken = other.add_all(PLACE, [series.names[slot] for slot in slots.tolist()])
    other.restore(taken, arrays)
    other.restore_bounds(PLACE, arrays)
    return other


@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 300)), min_size=1, max_size=60),
    rising=st.booleans(),
    max_series=st.sampled_from([None, 1, 2, 4]),
    has_ttl=st.booleans(),
    cuts=st.lists(st.integers(1, 59), max_size=5),
    carries=st.booleans(),
    packed=st.sampled_from([None, 1, 3]),
)
def test_series_leave_as_the_rules_say(
    rows: list[Row],
    rising: bool,
    max_series: int | None,
    has_ttl: bool,
    cuts: list[int],
    carries: bool,
    packed: int | None,
) -> None:
    """Rows that come as records of one each, or three in a record, are the same to the rules."""
    cuts = [cut // (packed or 1) * (packed or 1) for cut in cuts]
    if rising:
        rows = [(name, time) for (name, _), time in zip(rows, sorted(time for _, time in rows), strict=True)]
    bounds = Bounds(max_series, SPANS * SPAN_MS if has_ttl else None)
    series = table(bounds)
    left: list[Any] = []
    index_of: dict[int, int] = {}
    for low, high in pairwise([0, *sorted({cut for cut in cuts if cut < len(rows)}), len(rows)]):
        gone, points = found(series, rows[low:high], low, packed)
        left, index_of = left + gone, index_of | points
        if carries:
            series = carried_over(series, bounds)
    asked, asked_index_of = expected(rows, bounds)
    assert sorted(left, key=lambda each: (each[1], each[2], each[0])) == sorted(
        asked, key=lambda each: (each[1], each[2], each[0])
    )
    assert index_of == asked_index_of


def test_more_names_than_ever_keep_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explosion of names: the newest stay, memory does not grow by more than a poll."""
    monkeypatch.setattr(rules, "_LEAST_LISTED", 8)
    series, polled = table(Bounds(100)), 50
    names = [f"series-{number}" for number in range(5000)]
    gone: list[str] = []
    for low in range(0, len(names), polled):
        left, _ = found(series, [(name, 1) for name in names[low : low + polled]], low)
        gone += [name for name, _, _ in left]
    assert gone == names[:-100]
    assert len(series) == 100
    assert sorted(series.names[slot] for slot in series.held(PLACE).tolist()) == sorted(names[-100:])
    assert series.capacity <= 100 + 2 * polled + 64


def test_each_partition_has_its_share() -> None:
    series = table(Bounds(5))
    for place in (PLACE, OTHER):
        series.divide(place, 2)
        series.admit([batch([(name, 1) for name in "abcdefg"], 0, place)])
    assert [len(series.held(place)) for place in (PLACE, OTHER)] == [3, 3]
    series.drop(PLACE)
    assert [len(series.held(place)) for place in (PLACE, OTHER)] == [0, 3]
    assert len(series) == 3


def test_a_series_of_an_earlier_state_leaves_before_those_seen_since() -> None:
    """The first checkpoints do not tell when series were seen; of those the first by name leaves."""
    series = table(Bounds(3))
    slots, early = series.add_all(PLACE, ["b", "c", "a"]), series.snapshot(np.zeros(3, np.int64))
    series.restore(slots, {name: array for name, array in early.items() if name != "last_row"})
    series.restore_bounds(PLACE, {})
    left, _ = found(series, [("b", 1), ("new", 1), ("newer", 1)], 7)
    assert left == [("a", 8, "max_series"), ("c", 9, "max_series")]
