"""Labels that never change, alerts of each severity, and which incidents are open."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest

from pipeline.errors import ReceiverAway
from pipeline.protocols import TopicPartition
from pipeline.receivers.alertmanager import Alertmanager, annotations_of, labels_of
from pipeline.receivers.answers import Answer, Poster
from pipeline.receivers.told import Told
from pipeline.stages.alerts import Alert, FeatureView
from pipeline.stages.incidents import ENDS, State
from tests.pipeline.receivers.test_wording import HOSTILE
from tests.pipeline.stages.test_alerts import alert
from tests.records import Record

NOW_MS = 1_700_000_100_000
HERE, THERE = TopicPartition("alerts", 0), TopicPartition("alerts", 1)


class Sent:
    """Takes what is posted, but for incidents in `refused`, in memory."""

    host = "am"

    def __init__(self) -> None:
        self.posts: list[list[dict[str, Any]]] = []
        self.refused: set[str] = set()
        self.status = 200

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        posted = json.loads(body)
        if any(each["labels"]["incident"] in self.refused for each in posted):
            return Answer(400, "no")
        if self.status == 200:
            self.posts.append(posted)
        return Answer(self.status)

    def firing(self) -> list[tuple[str, str, bool]]:
        """Return incident, severity and whether it goes on, of the last post."""
        return [
            (each["labels"]["incident"], each["labels"]["severity"], ms_of(each["endsAt"]) > NOW_MS)
            for each in self.posts[-1]
        ]


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def made(sent: Sent, **changes: Any) -> Alertmanager:
    return Alertmanager("am", Poster("am", sent), lambda: NOW_MS, **changes)


def told(said: Alert, place: TopicPartition = HERE, timestamp: int = NOW_MS) -> Told:
    return Told(place, Record(0, timestamp, None, b""), said)


def tell(receiver: Alertmanager, *said: Alert, place: TopicPartition = HERE) -> Mapping[int, str]:
    alerts = [told(each, place) for each in said]
    for each in alerts:
        receiver.note(each)
    return receiver.send(alerts)


def test_an_open_incident_is_told_again_and_one_that_ended_is_not() -> None:
    sent = Sent()
    receiver = made(sent, resend_s=60.0)
    assert tell(receiver, alert(incident="a")) == {}
    assert sent.firing() == [("a", "major", True)]
    (post,) = sent.posts[-1]
    assert ms_of(post["endsAt"]) == NOW_MS + 300_000
    assert ms_of(post["startsAt"]) == 1_700_000_000_123
    receiver.resend([HERE])
    assert sent.firing() == [("a", "major", True)]
    tell(receiver, alert(incident="a", state="resolved", event_ms=1_700_000_050_000))
    assert sent.firing() == [("a", "major", False)]
    assert ms_of(sent.posts[-1][0]["endsAt"]) == 1_700_000_050_000
    receiver.resend([HERE])
    assert len(sent.posts) == 3
    assert receiver.open() == 0


@pytest.mark.parametrize("end", ENDS)
def test_each_severity_that_was_reached_has_an_alert_until_all_end(end: State) -> None:
    sent = Sent()
    receiver = made(sent)
    tell(receiver, alert(incident="a", severity="minor"))
    tell(receiver, alert(incident="a", severity="critical", state="worsened"))
    assert sent.firing() == [("a", "critical", True), ("a", "minor", True)]
    tell(receiver, alert(incident="a", severity="critical", state=end))
    assert sent.firing() == [("a", "critical", False), ("a", "minor", False)]
    tell(receiver, alert(incident="a", severity="minor", state="reopened"))
    assert sent.firing() == [("a", "minor", True)]


def test_what_ended_and_began_again_before_it_was_told_ends_in_part() -> None:
    sent = Sent()
    receiver = made(sent)
    tell(receiver, alert(incident="a", severity="critical"))
    tell(
        receiver,
        alert(incident="a", severity="critical", state="resolved"),
        alert(incident="a", severity="minor", state="reopened"),
    )
    assert sent.firing() == [("a", "critical", False), ("a", "minor", True)]
    receiver.resend([HERE])
    assert sent.firing() == [("a", "minor", True)]


def test_alerts_that_a_worker_repeats_change_nothing() -> None:
    sent = Sent()
    receiver = made(sent)
    course = [
        alert(incident="a", severity="minor"),
        alert(incident="a", severity="critical", state="worsened"),
        alert(incident="b"),
        alert(incident="b", state="resolved"),
    ]
    tell(receiver, *course)
    for each in course:
        tell(receiver, each)
        if each.incident == "a":
            assert sent.firing() == [("a", "critical", True), ("a", "minor", True)]
    receiver.resend([HERE])
    assert sent.firing() == [("a", "critical", True), ("a", "minor", True)]


def test_nothing_counts_as_told_that_was_not_taken() -> None:
    sent = Sent()
    receiver = made(sent)
    tell(receiver, alert(incident="a"))
    sent.status = 500
    end = told(alert(incident="a", state="resolved"))
    receiver.note(end)
    with pytest.raises(ReceiverAway, match="am answers 500"):
        receiver.send([end])
    sent.status = 200
    assert receiver.send([end]) == {}
    assert sent.firing() == [("a", "major", False)]


def test_one_that_is_refused_spoils_no_other() -> None:
    sent = Sent()
    sent.refused = {"b"}
    receiver = made(sent)
    assert tell(receiver, *(alert(incident=each) for each in "abc")) == {1: "am answers 400: no"}
    assert [each["labels"]["incident"] for posted in sent.posts for each in posted] == ["a", "c"]
    receiver.resend([HERE])
    assert [each["labels"]["incident"] for each in sent.posts[-1]] == ["a", "c"]


def test_what_came_before_is_told_only_where_it_is_open() -> None:
    sent = Sent()
    receiver = made(sent)
    for said in (
        alert(incident="a"),
        alert(incident="b"),
        alert(incident="a", state="resolved"),
        alert(incident="c", series="", fields={}),
    ):
        receiver.note(told(said))
    receiver.settle(HERE)
    receiver.resend([HERE])
    assert sent.firing() == [("b", "major", True)]


def test_only_the_incidents_of_the_partitions_asked_for_are_told_again() -> None:
    sent = Sent()
    receiver = made(sent)
    tell(receiver, alert(incident="a"))
    tell(receiver, alert(incident="b"), place=THERE)
    receiver.resend([THERE])
    assert sent.firing() == [("b", "major", True)]
    receiver.forget(THERE)
    receiver.resend([HERE, THERE])
    assert sent.firing() == [("a", "major", True)]


def test_many_are_told_in_pieces() -> None:
    sent = Sent()
    receiver = made(sent)
    for number in range(600):
        receiver.note(told(alert(incident=f"{number}")))
    receiver.resend([HERE])
    assert [len(posted) for posted in sent.posts] == [256, 256, 88]


def test_an_incident_of_which_nothing_is_told_for_long_is_believed_over(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent()
    receiver = made(sent, horizon_s=100.0)
    receiver.note(told(alert(incident="a"), timestamp=NOW_MS - 100_001))
    receiver.note(told(alert(incident="b"), timestamp=NOW_MS - 100_000))
    receiver.resend([HERE])
    assert sent.firing() == [("b", "major", True)]
    assert "nothing was told of incident a" in caplog.text


def test_the_record_of_features_is_told_once_and_ends_by_itself() -> None:
    sent = Sent()
    receiver = made(sent)
    tell(receiver, alert(incident="a", series="", fields={}))
    assert sent.firing() == [("a", "major", True)]
    receiver.resend([HERE])
    assert len(sent.posts) == 1


def test_no_end_lies_ahead_of_now_and_no_beginning_behind_its_end() -> None:
    sent = Sent()
    receiver = made(sent)
    ahead = NOW_MS + 3_000_000
    tell(receiver, alert(incident="a", opened_ms=ahead, event_ms=ahead))
    assert ms_of(sent.posts[-1][0]["startsAt"]) == NOW_MS
    tell(receiver, alert(incident="a", opened_ms=ahead, event_ms=ahead, state="resolved"))
    (post,) = sent.posts[-1]
    assert ms_of(post["startsAt"]) == ms_of(post["endsAt"]) == NOW_MS


def test_labels_are_the_same_in_all_alerts_of_an_incident() -> None:
    opened = alert(fields={"host": "web-1", "severity": "x", "stream": "y", "a.b": "z", "1": "w", "empty": ""})
    labels = labels_of(opened)
    assert labels == {
        "alertname": "OffkeyAnomaly",
        "kind": "anomaly",
        "incident": "a" * 32,
        "stream": "machines",
        "series": "web-1",
        "host": "web-1",
        "field_severity": "x",
        "field_stream": "y",
        "a_b": "z",
        "field_1": "w",
    }
    later = alert(
        fields=opened.fields, state="worsened", score=99.0, severity="critical", model_version="v2", offset=99
    )
    assert labels_of(later) == labels
    assert annotations_of(later) != annotations_of(opened)


def test_annotations_explain() -> None:
    assert annotations_of(alert()) == {
        "summary": "machines web-1: opened, major, score 41.5 (threshold 31.2)",
        "explanation": "cpu = 0.9, expected 0.3; share 100%",
        "incident": "a" * 32,
        "state": "opened",
        "opened": "2023-11-14T22:13:20.123Z",
        "score": "41.5",
        "threshold": "31.2",
        "field_host": "web-1",
        "model": "v1",
        "record": "metrics/3@17",
        "series": "web-1",
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_labels_that_an_alertmanager_takes(name: str) -> None:
    said = alert(stream=name, series=name, fields={name: name}, features={name: FeatureView(1, 0, 1)})
    texts: Sequence[Mapping[str, str]] = (labels_of(said), annotations_of(said))
    for found in texts:
        for key, text in found.items():
            assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", key)
            assert text
            assert all(line.isprintable() for line in text.split("\n"))
    assert all(len(text) <= 200 for text in labels_of(said).values())
    assert len(annotations_of(said)["series"]) >= len(name)
