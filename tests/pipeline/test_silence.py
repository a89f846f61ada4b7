"""A series that goes quiet, from records to alerts: whatever the polls and restarts."""

import json
from collections.abc import Sequence
from importlib.resources import files

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alert_settings import AlertSettings
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert, message, structured
from pipeline.stages.incidents import derived_id
from pipeline.stages.silence import STALE, STOPPED_AFTER
from pipeline.stream import StreamPipeline
from tests.pipeline.test_streams import PLACES, records_of, run
from tests.records import Record
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, Bench, Payload, drain, lanes, series_rows

PLACE = PLACES["machines"]
POINTS, QUIET, BACK, SILENCE = 120, 40, 80, 5
"""Points of each series: in all, before `b` goes quiet in the middle of an incident, and until it comes back."""
SCHEMA = json.loads(files("pipeline").joinpath("alert.schema.json").read_text())


def payloads(points: int = POINTS, back: int = BACK) -> list[Payload]:
    """Records of three series; `b` is strange when it goes, and comes back as usual."""
    names = ["a", "b", "c"]
    values = series_rows(names, points, 2, {"b": [QUIET - 3]})
    return [
        (
            name.encode(),
            json.dumps({"ts": time_of(at), "cpu": values[i, at, 0], "mem": values[i, at, 1]}).encode(),
        )
        for at in range(points)
        for i, name in enumerate(names)
        if name != "b" or not QUIET <= at < back
    ]


def time_of(point: int) -> int:
    return BEGIN_MS + STEP_MS * (HISTORY + point)


RECORDS = records_of(payloads())


def pipeline(silence: int | None = SILENCE, delay: int = 0) -> StreamPipeline:
    alerts = AlertSettings(budget="1 per day", silence=silence, delay=delay)
    return lanes(SERIES.model_copy(update={"alerts": alerts}))[0].pipeline


def course(alerts: Sequence[Alert], series: str = "b") -> list[tuple[str, float]]:
    """Return (state, point of the event time) of a series' alerts."""
    own = [alert for alert in alerts if alert.series == series]
    return [(alert.state, (alert.event_ms - time_of(0)) / STEP_MS) for alert in own]


@pytest.mark.parametrize("delay", [0, 3])
def test_an_open_incident_ends_as_stale_when_its_series_is_silent_and_a_record_resolves_that(delay: int) -> None:
    _, alerts = run(pipeline(delay=delay), PLACE, RECORDS, [])
    told = course(alerts)
    deadline = QUIET - 1 + SILENCE
    at = told.index(("stale", deadline))
    assert "opened" in {state for state, _ in told[:at]}
    assert told[at : at + 3] == [("stale", deadline), ("silent", deadline), ("resolved", BACK)]
    stale, silent, resolved = [alert for alert in alerts if alert.series == "b"][at : at + 3]
    assert stale.incident == next(a.incident for a in alerts if a.series == "b" and a.state == "opened")
    assert silent.incident == resolved.incident != stale.incident
    assert stale.score is not None
    for alert in (silent, resolved):
        assert (alert.features, alert.score, alert.threshold, alert.opened_ms) == (
            {},
            None,
            None,
            time_of(deadline),
        )
    # The record of `a` or `c` that moved the watermark to the deadline.
    trigger = json.loads(RECORDS[silent.offset].value or b"")
    assert trigger["ts"] == time_of(deadline)
    assert RECORDS[resolved.offset].key == b"b"


def test_what_a_silence_tells_is_named_by_its_series_and_deadline() -> None:
    _, alerts = run(pipeline(), PLACE, RECORDS, [])
    silent = next(alert for alert in alerts if alert.state == "silent")
    due_ms = time_of(QUIET - 1 + SILENCE)
    assert silent.id == silent.incident == derived_id("machines", PLACE, due_ms, 0, "b", "silent")
    for alert in alerts:
        sent = message(alert, "offkey.alerts")
        event = json.loads(msgspec.json.encode(structured(dict(sent.headers), sent.value or b"")))
        jsonschema.validate(event, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_silence_that_goes_on_is_stale() -> None:
    _, alerts = run(pipeline(2), PLACE, records_of(payloads(back=POINTS)), [])
    silent, stale = (alert for alert in alerts if alert.series == "b" and alert.score is None)
    assert (silent.state, stale.state, silent.incident) == ("silent", "stale", stale.incident)
    assert stale.event_ms == time_of(QUIET - 1 + 2 * STALE)


def test_without_the_setting_an_open_incident_is_stale_much_later() -> None:
    points = QUIET + STOPPED_AFTER + 20
    _, alerts = run(pipeline(None), PLACE, records_of(payloads(points, back=points)), [])
    assert course(alerts)[-1] == ("stale", QUIET - 1 + STOPPED_AFTER)
    assert all(alert.score is not None for alert in alerts)


def test_nothing_is_silent_where_all_pause() -> None:
    pause = [Record(r.offset, r.timestamp, r.key, later(r.value)) if r.offset >= 90 else r for r in RECORDS[:110]]
    _, alerts = run(pipeline(), PLACE, pause, [])
    assert not [alert for alert in alerts if alert.state == "silent"]


def later(value: bytes | None) -> bytes:
    row = json.loads(value or b"")
    return json.dumps({**row, "ts": row["ts"] + 10**8}).encode()


def ids(alerts: Sequence[Alert]) -> list[str]:
    return [alert.id for alert in alerts]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, len(RECORDS) - 1), max_size=12), silence=st.sampled_from([None, 2, SILENCE]))
def test_polls_do_not_matter(cuts: list[int], silence: int | None) -> None:
    expected_scores, expected = run(pipeline(silence), PLACE, RECORDS, [])
    scores, alerts = run(pipeline(silence), PLACE, RECORDS, cuts)
    assert scores == expected_scores
    assert ids(alerts) == ids(expected)
    assert [msgspec.json.encode(alert) for alert in alerts] == [msgspec.json.encode(alert) for alert in expected]


@pytest.mark.parametrize("at", [60, 117, 121, 125, 131, 133, 160, 197, 199, 203])
def test_a_restart_half_way_changes_nothing(at: int) -> None:
    _, through = run(pipeline(), PLACE, RECORDS, [])
    first, second = pipeline(), pipeline()
    _, early = run(first, PLACE, RECORDS[:at], [])
    kept = first.snapshot(PLACE)
    second.restore(PLACE, [kept])
    assert second.open_incidents == first.open_incidents
    assert {name: array.tobytes() for name, array in second.snapshot(PLACE).items()} == {
        name: array.tobytes() for name, array in kept.items()
    }
    _, late = run(second, PLACE, RECORDS[at:], [])
    assert ids([*early, *late]) == ids(through)


def test_a_checkpoint_of_a_version_without_silence_goes_on() -> None:
    at = 3 * 30
    _, through = run(pipeline(), PLACE, RECORDS, [])
    first, second = pipeline(), pipeline()
    _, early = run(first, PLACE, RECORDS[:at], [])
    kept = {name: a for name, a in first.snapshot(PLACE).items() if not name.startswith("silence.")}
    del kept["resolved"]
    second.restore(PLACE, [kept])
    _, late = run(second, PLACE, RECORDS[at:], [])
    assert ids([*early, *late]) == ids(through)


def test_a_partition_that_is_given_up_is_forgotten() -> None:
    made = pipeline()
    run(made, PLACE, RECORDS[:160], [])
    assert made.open_incidents == 1
    made.drop(PLACE)
    assert made.open_incidents == 0
    other = TopicPartition(PLACE.topic, 5)
    assert made.process([PartitionRecords(other, RECORDS[:40])]).alerts == []


def test_a_worker_that_is_lost_tells_nothing_else() -> None:
    """Nothing is checkpointed, so the next worker replays all, silences too, and tells none of it again."""
    alerts = AlertSettings(budget="1 per day", silence=SILENCE)
    series = SERIES.model_copy(update={"alerts": alerts})
    told: list[list[str]] = []
    for lost_after in ((), (9, 12, 19)):
        bench = Bench(partitions=1)
        bench.fill(payloads())
        for steps in lost_after:
            worker = bench.worker(max_poll_records=13, series=series)
            for _ in range(steps):
                worker.step()
            bench.broker.members.clear()
        drain(bench.worker(max_poll_records=13, series=series))
        told.append([alert["id"] for alert in bench.alerts()])
        assert {"silent", "stale"} <= {alert["state"] for alert in bench.alerts()}
    assert told[1] == told[0]
