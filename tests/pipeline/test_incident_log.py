"""Incidents are found again in the topic of alerts, by their ids, with what feedback has to know of them."""

from typing import Any

import pytest

from pipeline.connectors.memory import MemoryBroker, MemoryLog
from pipeline.errors import ConfigError
from pipeline.feedback import MOST_DEVIATIONS, Deviation
from pipeline.incident_log import Course, IncidentLog, feedback_on, looked_up, read_incidents
from pipeline.stages.alerts import Alert, FeatureView, FeedbackView, message
from tests.pipeline.stages.test_alerts import alert

UP = {"cpu": FeatureView(9.0, 3.0, 0.75, 1.0), "mem": FeatureView(2.0, 2.5, 0.25, 1.0)}


def told(*alerts: Alert, keeps: Any = lambda course: True) -> IncidentLog:
    """Return what a topic of these alerts, and of what other programs wrote, tells."""
    broker = MemoryBroker()
    broker.create_topic("alerts", 1)
    for value in (b"no alert", None, b"[]"):
        broker.append("alerts", value)
    for each in alerts:
        broker.append("alerts", message(each, "alerts").value)
    return read_incidents(MemoryLog(broker, "alerts", portion=2), keeps)


def only(*alerts: Alert) -> Course:
    (course,) = told(*alerts).courses.values()
    return course


def test_a_course_goes_on_from_its_opening_to_its_end() -> None:
    course = only(
        alert(event_ms=100, opened_ms=100, score=41.5, threshold=31.25, features=UP),
        alert(state="worsened", event_ms=200, opened_ms=100, score=52.0, threshold=31.25, features=UP),
        alert(state="resolved", event_ms=300, opened_ms=100, score=53.0, threshold=31.25, features=UP),
    )
    assert (course.opened_ms, course.told_ms, course.ended_ms) == (100, 300, 300)
    assert (course.peak, course.threshold, course.subject) == (53.0, 31.25, "deviation")
    assert course.deviations == (Deviation({"cpu": 0.75, "mem": 0.25}, {"cpu": 1}),)


def test_it_is_open_until_it_ends_and_again_when_it_is_reopened() -> None:
    opened, resolved = alert(), alert(state="resolved", event_ms=1_700_000_300_000)
    assert only(opened).ended_ms is None
    assert only(opened, resolved).ended_ms == 1_700_000_300_000
    assert only(opened, resolved, alert(state="reopened", score=33.0)).ended_ms is None
    assert only(opened, resolved, alert(state="reopened", score=33.0)).peak == 41.5


def test_the_incident_of_a_record_has_no_course() -> None:
    course = only(alert(series="", fields={}))
    assert course.ended_ms == course.opened_ms


@pytest.mark.parametrize(
    ("changes", "subject"),
    [({}, "silence"), ({"series": "", "state": "storm"}, "storm"), ({"state": "silent"}, "silence")],
)
def test_silences_and_storms_have_no_score(changes: dict[str, Any], subject: str) -> None:
    course = only(alert(score=None, threshold=None, features={}, **changes))
    assert (course.subject, course.peak, course.threshold) == (subject, None, None)
    assert course.ended_ms is None


def test_where_the_error_is_of_an_earlier_point_no_side_is_told() -> None:
    assert only(alert(features=UP, points_back=2)).deviations == (Deviation({"cpu": 0.75, "mem": 0.25}),)


def test_alerts_that_are_repeated_change_nothing_and_deviations_have_an_end() -> None:
    first = alert(features=UP)
    assert only(first, first, first) == only(first)
    views = [{"cpu": FeatureView(9.0, 3.0, round(1 - n / 100, 2), 1.0)} for n in range(2 * MOST_DEVIATIONS)]
    course = only(first, *(alert(state="repeated", features=each) for each in views))
    assert len(course.deviations) == MOST_DEVIATIONS


def test_a_threshold_that_feedback_had_moved_is_told_without_that() -> None:
    moved = alert(threshold=57.25, score=60.0, feedback=FeedbackView(["b" * 32], 26.0))
    assert only(moved, alert(state="worsened", threshold=57.25, score=70.0)).threshold == 31.25


def test_what_is_said_of_it_carries_all_that_its_effect_needs() -> None:
    course = only(alert(features=UP))
    said = feedback_on(course, "expected", by="me@here", at_ms=7, until_ms=9, note="disks")
    assert (said.incident, said.stream, said.series) == ("a" * 32, "machines", "web-1")
    assert (said.topic, said.partition, said.peak, said.threshold) == ("metrics", 3, 41.5, 31.25)
    assert (said.verdict, said.by, said.at_ms, said.until_ms, said.note) == ("expected", "me@here", 7, 9, "disks")
    assert said.deviations == list(course.deviations)


def test_only_what_is_kept_is_held_and_every_id_is_known() -> None:
    ended = alert(incident="b" * 32, state="resolved")
    found = told(alert(), alert(incident="b" * 32), ended, keeps=lambda course: course.ended_ms is None)
    assert list(found.courses) == ["a" * 32]
    assert list(found.known) == ["a" * 32, "b" * 32]


def test_an_incident_is_looked_up_by_its_beginning() -> None:
    found = told(alert(), alert(incident="ab" + "c" * 30))
    assert looked_up(found, "ab", "alerts").incident == "ab" + "c" * 30
    assert looked_up(found, "a" * 32, "alerts").incident == "a" * 32
    with pytest.raises(
        ConfigError, match=r"incident 'a': 2 begin so; write more of it: a{32} \(machines web-1\), abc"
    ):
        looked_up(found, "a", "alerts")


def test_an_unknown_incident_is_refused_with_what_is_near_it() -> None:
    found = told(alert(), alert(incident="3f2a9c41d07be65890abf3e1c2d47765"))
    with pytest.raises(
        ConfigError, match=r"no incident '3f2a9c41d07be65890abf3e1c2d47766'; did you mean 3f2a\w+65\?"
    ):
        looked_up(found, "3f2a9c41d07be65890abf3e1c2d47766", "alerts")
    with pytest.raises(ConfigError, match=r"topic alerts tells of no incident 'xyz'; the newest are: a{32}, 3f2a"):
        looked_up(found, "xyz", "alerts")
    with pytest.raises(ConfigError, match=r"it holds no alerts; is topics\.alerts right"):
        looked_up(told(), "a", "alerts")
