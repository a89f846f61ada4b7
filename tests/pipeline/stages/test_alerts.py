"""What is published is valid under the shipped schema, in Kafka's binary mode and as a line of a file."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import msgspec
import pytest

from pipeline.stages.alerts import EVENT_TYPE, Alert, CloudEvent, FeatureView, FeedbackView, message, structured
from pipeline.stages.incidents import State

SCHEMA = json.loads(files("pipeline").joinpath("alert.schema.json").read_text())
FIXTURES = Path(__file__).parents[2] / "fixtures"


def alert(**changes: Any) -> Alert:
    made: dict[str, Any] = {
        "incident": "a" * 32,
        "stream": "machines",
        "series": "web-1",
        "fields": {"host": "web-1"},
        "state": "opened",
        "severity": "major",
        "score": 41.5,
        "threshold": 31.25,
        "opened_ms": 1_700_000_000_123,
        "event_ms": 1_700_000_000_123,
        "features": {"cpu": FeatureView(0.9, 0.3, 1.0)},
        "model_version": "v1",
        "topic": "metrics",
        "partition": 3,
        "offset": 17,
    }
    return Alert(**{**made, **changes})


def test_binary_mode_carries_the_attributes_in_headers() -> None:
    sent = message(alert(), "offkey.alerts")
    headers = {name: value.decode() for name, value in sent.headers}
    assert headers == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": alert().id,
        "ce_source": "/offkey/machines/metrics/3",
        "ce_type": "offkey.incident.opened",
        "ce_subject": "web-1",
        "ce_time": "2023-11-14T22:13:20.123Z",
    }
    assert (sent.topic, sent.key) == ("offkey.alerts", b"machines/web-1")
    assert msgspec.json.decode(sent.value or b"", type=Alert) == alert()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *({"state": state} for state in ("reopened", "worsened", "repeated", "resolved", "accepted")),
        {"series": "", "fields": {}},
        {"state": "stale", "features": {}},
        {"feedback": FeedbackView(["b" * 32], 26.5)},
        {"state": "silent", "features": {}, "score": None, "threshold": None},
    ],
)
def test_structured_mode_is_valid_under_the_schema(changes: dict[str, Any]) -> None:
    sent = message(alert(**changes), "offkey.alerts")
    event = json.loads(msgspec.json.encode(structured(dict(sent.headers), sent.value or b"")))
    jsonschema.validate(event, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert event["data"]["score"] == changes.get("score", 41.5)


def test_the_schema_refuses_what_is_no_alert() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"id": "x"}, SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_alerts_of_every_format_are_valid(version: str) -> None:
    lines = (FIXTURES / version / "alerts.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        jsonschema.validate(json.loads(line), SCHEMA, cls=jsonschema.Draft202012Validator)


def test_alerts_tell_how_far_from_the_expected_value_is_usual() -> None:
    for line in (FIXTURES / "v2" / "alerts.jsonl").read_text().splitlines():
        told = json.loads(line)["data"]
        assert told["points_back"] >= 0
        assert all(feature["band"] > 0 for feature in told["features"].values())


def test_ids_differ_by_transition_and_repeat_by_place() -> None:
    assert alert().id == alert(score=99.0).id
    assert len({alert(state=state).id for state in get_args(State)}) == len(get_args(State))


@pytest.mark.parametrize("state", ["silent", "stale"])
def test_what_a_silence_did_is_named_by_its_deadline(state: str) -> None:
    """Which record tells of it is another matter."""
    assert alert(state=state, offset=18).id == alert(state=state).id
    assert alert(state=state, event_ms=1).id != alert(state=state).id


def test_incidents_that_end_at_one_time_are_told_apart() -> None:
    """A series that leaves, comes back and leaves again while its partition's time stands still."""
    assert alert(state="stale", incident="b" * 32).id != alert(state="stale").id


def test_every_state_is_a_type_of_event() -> None:
    types = get_type_hints(CloudEvent)["type"]
    assert set(get_args(types)) == {EVENT_TYPE + state for state in get_args(State)}
