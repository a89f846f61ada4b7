"""Thresholds that keep within the budget of a stream, whatever the polls and restarts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.arrays import FloatArray
from pipeline.protocols import TopicPartition
from pipeline.stages.series import SeriesTable
from pipeline.stages.silence import Passed
from pipeline.stages.thresholds import Thresholds

PLACE, OTHER = TopicPartition("metrics", 0), TopicPartition("metrics", 1)


def table(names: Mapping[TopicPartition, Sequence[str]]) -> SeriesTable:
    made = SeriesTable(1, 2, known_scaling=lambda name: None, known_interval_ms={"quick": 10.0}.get)
    for partition, own in names.items():
        made.add_all(partition, own)
    made.columns["interval_ms"][:] = np.where(made.columns["interval_ms"] > 0, made.columns["interval_ms"], 1000.0)
    return made


def of_budget(names: Sequence[str], interval_ms: FloatArray, halvings: int) -> FloatArray:
    return 10 * np.log10(1e6 / interval_ms) + 3 * halvings


def stage(held: SeriesTable, series_in_budget: float | None) -> Thresholds:
    return Thresholds(held, of_budget, series_in_budget)


def passed(live: int, changes: Mapping[int, int] | None = None) -> Passed:
    changes = changes or {}
    none = np.zeros(0, np.int64)
    return Passed(none, none, live, np.array(list(changes), np.int64), np.array(list(changes.values()), np.int64))


def of(made: Thresholds, slots: Sequence[int], offsets: Sequence[int], *polled: Passed) -> list[float]:
    own = dict(zip((PLACE, OTHER), polled, strict=False))
    slot_K = np.array(slots, np.int64)
    return list(made.of(slot_K, made.halvings(slot_K, np.array(offsets, np.int64), own)))


def allowed(made: Thresholds, slots: Sequence[int], offsets: Sequence[int], *polled: Passed) -> float:
    own = dict(zip((PLACE, OTHER), polled, strict=False))
    slot_K = np.array(slots, np.int64)
    halvings_K = made.halvings(slot_K, np.array(offsets, np.int64), own)
    return made.allowed(slot_K, halvings_K, lambda interval_ms: 1e6 / interval_ms)


def test_a_series_has_the_threshold_of_its_own_budget_where_there_is_no_other() -> None:
    made = stage(table({PLACE: ["a", "quick"]}), None)
    assert of(made, [0, 1, 0], [1, 2, 3], passed(10**6)) == [30.0, 50.0, 30.0]


@pytest.mark.parametrize(
    ("live", "halvings"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (16, 2), (17, 3), (4096, 10)]
)
def test_budgets_are_halved_until_their_sum_is_within_the_streams(live: int, halvings: int) -> None:
    made = stage(table({PLACE: ["a"]}), 4.0)
    assert of(made, [0], [7], passed(live)) == [30.0 + 3 * halvings]


def test_less_than_one_series_in_the_budget() -> None:
    assert of(stage(table({PLACE: ["a"]}), 0.25), [0], [7], passed(1)) == [36.0]


def test_a_threshold_moves_with_the_record_that_brings_or_takes_a_series() -> None:
    made = stage(table({PLACE: ["a", "b"]}), 2.0)
    polled = passed(2, {10: 1, 12: 1, 13: 1, 20: -4})
    assert of(made, [0, 1, 0, 1, 0, 1], [9, 10, 12, 13, 19, 20], polled) == [30.0, 33.0, 33.0, 36.0, 36.0, 30.0]


def test_each_partition_counts_its_own() -> None:
    made = stage(table({PLACE: ["a"], OTHER: ["b"]}), 1.0)
    assert of(made, [0, 1, 1], [5, 5, 6], passed(1), passed(1, {6: 3})) == [30.0, 30.0, 36.0]


def test_a_slot_that_another_series_takes_over_has_its_threshold() -> None:
    held = table({PLACE: ["a"]})
    made = stage(held, None)
    assert of(made, [0], [1], passed(1)) == [30.0]
    made.forget(held.drop(PLACE))
    held.add_all(OTHER, ["quick"])
    assert of(made, [0], [1], passed(1)) == [50.0]


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30),
    cut=st.integers(0, 30),
)
def test_polls_do_not_matter(points: list[tuple[int, int]], cut: int) -> None:
    """A record is (slot, how many series it brings alive)."""
    slots, changes = [slot for slot, _ in points], np.array([change for _, change in points])
    whole, parts = (stage(table({PLACE: ["a", "b", "quick"]}), 1.5) for _ in range(2))
    offsets = list(range(len(points)))
    expected = of(whole, slots, offsets, passed(0, dict(enumerate(changes.tolist()))))
    early = of(parts, slots[:cut], offsets[:cut], passed(0, dict(enumerate(changes[:cut].tolist()))))
    later = {cut + n: change for n, change in enumerate(changes[cut:].tolist())}
    late = of(parts, slots[cut:], offsets[cut:], passed(int(changes[:cut].sum()), later))
    assert early + late == expected


def test_what_a_budget_allows_is_halved_as_the_thresholds_are() -> None:
    """One point in 1,000 of a series with a point a second, one in 100,000 of the quick one."""
    made = stage(table({PLACE: ["a", "quick"]}), 2.0)
    found = allowed(made, [0, 1, 0], [7, 8, 9], passed(2, {9: 1}))
    assert found == pytest.approx(1e-3 + 1e-5 + 0.5e-3)
    unbounded = stage(table({PLACE: ["a"]}), None)
    assert allowed(unbounded, [0, 0], [1, 2], passed(10**6)) == pytest.approx(2e-3)
