"""Alerts of a backtest -> incidents with what was said of them; two backtests side by side."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipeline.feedback import Feedback
from pipeline.jobs.backtest import Begun
from pipeline.jobs.backtest_result import Incident, Tally, compared, incidents_of
from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import Alert
from tests.pipeline.stages.test_alerts import alert

BEGUN = Begun(TopicPartition("metrics", 0), "id", 0, "start", 0)


def course(incident: str, opened_ms: int, ended_ms: int | None, **what: Any) -> list[Alert]:
    """Return the alerts of one incident; None: it does not end."""
    told = [alert(incident=incident, opened_ms=opened_ms, event_ms=opened_ms, **what)]
    if ended_ms is not None:
        told.append(alert(incident=incident, state="resolved", opened_ms=opened_ms, event_ms=ended_ms, **what))
    return told


def incidents(*courses: list[Alert], said: tuple[Feedback, ...] = (), begun: Begun = BEGUN) -> list[Incident]:
    told = [(begun, each) for one in courses for each in one]
    return incidents_of(told, {each.incident: each for each in said})


def false_alarm(incident: str, opened_ms: int, ended_ms: int | None, **changes: Any) -> Feedback:
    given: dict[str, Any] = {
        "version": 1,
        "incident": incident,
        "verdict": "false_alarm",
        "by": "me",
        "at_ms": 9_000,
        "stream": "machines",
        "series": "web-1",
        "topic": "metrics",
        "partition": 0,
        "opened_ms": opened_ms,
        "ended_ms": ended_ms,
        "peak": 40.0,
        "threshold": 30.0,
    }
    return Feedback(**{**given, **changes})


SERIES = {"series": "web-1"}


def test_an_incident_is_as_severe_as_it_ever_was_and_ends_with_its_last_alert() -> None:
    told = [
        alert(incident="i", opened_ms=100, event_ms=100, severity="minor", score=41.0, **SERIES),
        alert(
            incident="i", state="worsened", opened_ms=100, event_ms=200, severity="critical", score=60.0, **SERIES
        ),
        alert(incident="i", state="resolved", opened_ms=100, event_ms=300, severity="minor", score=60.0, **SERIES),
    ]
    (one,) = incidents(told)
    assert (one.severity, one.course.peak, one.course.ended_ms, one.verdict) == ("critical", 60.0, 300, None)
    assert not one.in_warming


@pytest.mark.parametrize(
    ("feedback", "verdict"),
    [
        (false_alarm("i", 100, 300), "false_alarm"),
        # Of another version's incident, which overlaps it, be it in one moment.
        (false_alarm("other", 300, 400), "false_alarm"),
        (false_alarm("other", 50, 100), "false_alarm"),
        (false_alarm("other", 301, 400), None),
        (false_alarm("other", 50, 99), None),
        (false_alarm("other", 150, 160, series="web-2"), None),
        (false_alarm("other", 150, 160, subject="silence", peak=None, threshold=None), None),
        # It was open when it was marked, so how long it went on is not known.
        (false_alarm("other", 50, None), None),
        (false_alarm("other", 150, None), "false_alarm"),
        (false_alarm("other", 50, 60, verdict="expected", until_ms=101), "expected"),
    ],
)
def test_what_was_said_holds_for_what_overlaps_it_in_its_series(feedback: Feedback, verdict: str | None) -> None:
    (one,) = incidents(course("i", 100, 300, **SERIES), said=(feedback,))
    assert one.verdict == verdict


def test_of_several_words_the_newest_counts_but_its_own_comes_first() -> None:
    others = (false_alarm("x", 100, 200), false_alarm("y", 100, 200, verdict="confirmed", at_ms=9_001))
    (one,) = incidents(course("i", 100, 300, **SERIES), said=others)
    assert one.verdict == "confirmed"
    own = false_alarm("i", 100, 300, at_ms=1)
    (one,) = incidents(course("i", 100, 300, **SERIES), said=(*others, own))
    assert one.verdict == "false_alarm"


def test_what_begins_in_a_cold_stretch_is_marked() -> None:
    cold = Begun(TopicPartition("metrics", 0), "id", 0, "cold", 0, warming_until_ms=200)
    early, late = incidents(course("i", 199, 300, **SERIES), course("j", 400, 500, **SERIES), begun=cold)
    assert (early.in_warming, late.in_warming) == (True, False)


def test_two_are_in_both_where_they_overlap_and_the_delay_is_the_median() -> None:
    a = incidents(
        course("a1", 100, 200, **SERIES),
        course("a2", 1000, 1100, **SERIES),
        course("a3", 2000, 2100, **SERIES),
        course("a4", 3000, None, **SERIES),
    )
    b = incidents(
        course("b1", 150, 160, **SERIES),
        course("b2", 1000, 1500, series="web-2"),
        course("b3", 2010, 2020, **SERIES),
        course("b4", 2050, 2060, **SERIES),
        course("b5", 9000, None, **SERIES),
    )
    both = compared(a, b)
    assert [(one.course.incident, other.course.incident) for one, other in both.in_both] == [
        ("a1", "b1"),
        ("a3", "b3"),
        ("a4", "b5"),
    ]
    assert [each.course.incident for each in both.only_a] == ["a2"]
    assert [each.course.incident for each in both.only_b] == ["b2"]
    assert both.in_both_of_b == 4
    assert both.delay_ms == np.median([50, 10, 6000])
    back = compared(b, a)
    assert [len(back.only_a), len(back.only_b)] == [len(both.only_b), len(both.only_a)]


def test_nothing_in_common_has_no_delay() -> None:
    both = compared(incidents(course("a", 100, 200, **SERIES)), [])
    assert both.delay_ms is None
    assert both.told == "0 incidents in both, 1 in A only, 0 in B only"


def test_records_of_features_are_the_same_by_their_ids() -> None:
    a = incidents(*(course(name, 100, None, series="", fields={}) for name in ("x", "y")))
    b = incidents(course("y", 100, None, series="", fields={}))
    both = compared(a, b)
    assert [one.course.incident for one, _ in both.in_both] == ["y"]
    assert [one.course.incident for one in both.only_a] == ["x"]


def test_tallies_that_are_joined_count_what_both_do() -> None:
    told = [(BEGUN, each) for each in course("i", 100, 300)]
    joined = Tally(1, 2, 3, 4, 5, 6, 100, 300, Counter(v1=1), {"a", "b"}, told[:1])
    joined.join(Tally(10, 20, 30, 40, 50, 60, 50, 400, Counter(v1=2, v2=3), {"b", "c"}, told[1:]))
    whole = Tally(11, 22, 33, 44, 55, 66, 50, 400, Counter(v1=3, v2=3), {"a", "b", "c"}, told)
    assert joined == whole
    joined.join(Tally())
    assert joined == whole
    first = Tally()
    first.join(joined)
    assert first == whole
