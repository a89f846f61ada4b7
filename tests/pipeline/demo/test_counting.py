import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.demo.counting import (
    DAY_MS,
    Tally,
    budget_of,
    judge_series,
    judge_table,
    summary,
    tally_of,
    total_of,
)
from pipeline.demo.data import Recorded
from tests.pipeline.demo.incidents import alert

MINUTE = 60_000
TIMES = np.arange(0, 1000 * MINUTE, MINUTE)
SPANS = [(100, 110), (500, 500)]
WINDOW = 8


def recorded(rows: int, train_rows: int, is_table: bool = False) -> Recorded:
    times = None if is_table else np.arange(rows) * MINUTE
    return Recorded("metrics", "cpu", ("value",), np.zeros((rows, 1)), times, train_rows)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (100, "found"),
        (110, "found"),
        (500, "found"),
        (99, "near"),
        (92, "near"),
        (118, "near"),
        (91, "false"),
        (119, "false"),
        (0, "false"),
        (508, "near"),
        (509, "false"),
    ],
)
def test_an_opening_is_judged_by_where_its_event_time_lies(row: int, verdict: str) -> None:
    judged = judge_series([alert("i", row * MINUTE)], TIMES, SPANS, WINDOW)
    assert judged.verdicts == {"i": verdict}
    assert any(judged.found) == (verdict == "found")


def test_a_span_is_found_once_however_many_incidents_open_in_it() -> None:
    judged = judge_series([alert("a", 101 * MINUTE), alert("b", 108 * MINUTE)], TIMES, SPANS, WINDOW)
    assert judged.found == [True, False]


def test_an_incident_that_is_reopened_is_told_again_and_counted_again() -> None:
    course = [alert("a", 50 * MINUTE), alert("a", 105 * MINUTE, state="reopened")]
    course += [alert("a", 200 * MINUTE, state="reopened"), alert("b", 97 * MINUTE)]
    judged = judge_series(course, TIMES, SPANS, WINDOW)
    assert (judged.verdicts, judged.found, judged.false_alarms) == (
        {"a": "found", "b": "near"},
        [True, False],
        2,
    )


def test_without_labels_every_opening_is_false() -> None:
    assert judge_series([alert("a", MINUTE)], TIMES, [], WINDOW).verdicts == {"a": "false"}


@given(st.lists(st.integers(0, 999), unique=True))
def test_every_opening_has_one_verdict_and_found_spans_have_an_opening(rows: list[int]) -> None:
    judged = judge_series([alert(str(row), row * MINUTE) for row in rows], TIMES, SPANS, WINDOW)
    assert judged.verdicts.keys() == {str(row) for row in rows}
    inside = [any(first <= row <= last for row in rows) for first, last in SPANS]
    assert judged.found == inside


def test_each_labelled_record_of_a_table_is_an_incident() -> None:
    judged = judge_table([(alert("a", 1), 20), (alert("b", 2), 21), (alert("c", 3), 25)], [(20, 22)])
    assert judged.found == [True, True, False]
    assert judged.verdicts == {"a": "found", "b": "found", "c": "false"}


def test_the_budget_covers_the_replayed_part_alone() -> None:
    assert budget_of(recorded(3001, 120)) == 2880 * MINUTE / DAY_MS == 2.0
    assert budget_of(recorded(5000, 2000, is_table=True)) == 3.0


def test_a_clock_that_steps_back_does_not_shrink_the_budget() -> None:
    times = np.array([0, 2 * DAY_MS, DAY_MS])
    assert budget_of(Recorded("metrics", "cpu", ("value",), np.zeros((3, 1)), times, 0)) == 2.0


def test_figures_add_up() -> None:
    judged = judge_series([alert("a", 101 * MINUTE), alert("b", 0)], TIMES, SPANS, WINDOW)
    tally = tally_of([recorded(1000, 100)], [judged], alerts=4, seconds=2.0)
    assert tally == Tally(900, 4, 2, 1, 1, round(899 * MINUTE / DAY_MS, 3), 2.0)
    assert tally.rate == 450
    total = total_of([tally, tally], seconds=9.0)
    assert (total.records, total.incidents_found, total.false_alarms, total.seconds) == (1800, 2, 2, 9.0)
    written = summary(total, {"cpu": tally}, {"restarts": 1})
    assert written.keys() == {"total", "streams", "restarts", "counting"}
    assert written["streams"]["cpu"].keys() == written["total"].keys()
    assert list(written["total"]) == [
        "records",
        "alerts",
        "incidents_labelled",
        "incidents_found",
        "false_alarms",
        "false_alarm_budget",
        "seconds",
    ]
