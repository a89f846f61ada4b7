"""What is said acts in a worker: from a record on that its log tells, through restarts, until it is taken back."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jsonschema
import msgspec
import pytest

from pipeline.connectors.memory import MemoryAdoptions, MemoryFeedback
from pipeline.errors import TransientError
from pipeline.feedback import Feedback, Words, message, tombstone
from pipeline.incident_log import feedback_on
from pipeline.listening import Listening
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import structured
from pipeline.worker import Worker
from tests.pipeline.stages.test_alerts import SCHEMA
from tests.pipeline.test_incident_log import told
from tests.records import Record
from tests.sabotage import Countdown, Killed, Saboteur
from tests.streams import (
    BEGIN_MS,
    SERIES,
    Bench,
    bench_options,
    counted,
    drain,
    feature_payloads,
    lanes,
    payloads_of,
    series_payloads,
    series_rows,
)

PLACE = TopicPartition("metrics", 0)
POINTS, SPIKES = 240, [60, 120, 180]


def filled(**options: Any) -> Bench:
    """A stream of three series, one of which has the same spike three times, and one other spike."""
    bench = Bench(partitions=1, options=bench_options(checkpoint_every_s=0), **options)
    bench.broker.create_topic("feedback", 1)
    names = ["a", "b", "c"]
    bench.fill(payloads_of(names, series_rows(names, POINTS, 2, {"a": SPIKES, "b": [150]})), feature_payloads())
    return bench


def hearing(bench: Bench, worker: Worker) -> Worker:
    """Have a worker listen to the bench's topic; it looks at every turn."""
    slots = {lane.name: lane.feedback for lane in worker.lanes}
    ticks = iter(range(10**9))
    worker.listening = Listening(
        MemoryFeedback(bench.broker, "feedback"), "feedback", slots, lambda: float(next(ticks))
    )
    return worker


def worker_of(bench: Bench, **options: Any) -> Worker:
    return hearing(bench, bench.worker(**{"max_poll_records": 60, **options}))


def say(bench: Bench, feedback: Feedback) -> None:
    sent = message(feedback, "feedback")
    bench.broker.append("feedback", sent.value, key=sent.key)


def starts(bench: Bench, series: str = "a", stream: str = "machines") -> list[tuple[int, str]]:
    """Return (point, state) of what began in a series."""
    return [
        (alert["offset"] // 3 if stream == "machines" else alert["offset"], alert["state"])
        for alert in bench.alerts()
        if (alert["stream"], alert["series"]) == (stream, series) and alert["state"] in ("opened", "reopened")
    ]


def first_incident(bench: Bench, series: str = "a", stream: str = "machines") -> str:
    return str(next(a["incident"] for a in bench.alerts() if (a["stream"], a["series"]) == (stream, series)))


def verdict_on(bench: Bench, incident: str, verdict: Any = "false_alarm", until_ms: int | None = None) -> Feedback:
    """Return what the command would say, by the alerts that were published."""
    found = told(keeps=lambda course: True)
    found.take(bench.broker.records("alerts"))
    return feedback_on(found.courses[incident], verdict, by="me", at_ms=1, until_ms=until_ms)


def marked(bench: Bench, worker: Worker, verdict: Any = "false_alarm", until_ms: int | None = None) -> str:
    """Work until the first spike is told and over, say what it was, and return its incident."""
    while not starts(bench) or bench.broker.committed.get(PLACE, 0) < 3 * 80:
        worker.step()
    incident = first_incident(bench)
    say(bench, verdict_on(bench, incident, verdict, until_ms))
    return incident


def given_the_log(bench: Bench, max_poll_records: int = 17, **options: Any) -> list[dict[str, Any]]:
    """Return the alerts of a run that hears nothing and is given the adoptions that another one has written."""
    twin = filled(**options)
    twin.adoptions.storage.objects = dict(bench.adoptions.storage.objects)
    drain(twin.worker(max_poll_records=max_poll_records))
    return twin.alerts()


def by_id(alerts: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {alert["id"]: alert for alert in alerts}


def test_nothing_said_changes_nothing() -> None:
    bench, deaf = filled(), filled()
    drain(worker_of(bench))
    drain(deaf.worker(max_poll_records=60))
    assert bench.alerts() == deaf.alerts()
    assert [point for point, _ in starts(bench)] == SPIKES
    assert {entry.words for entry in bench.adopted(PLACE)} == {""}
    assert not any("/said/" in name for name in bench.adoptions.storage.objects)


def test_a_false_alarm_is_adopted_before_it_acts_and_its_repeats_begin_nothing() -> None:
    bench, before = filled(), counted("offkey_points_excused_total")
    worker = worker_of(bench)
    incident = marked(bench, worker)
    drain(worker)
    assert [point for point, _ in starts(bench)] == SPIKES[:1]
    assert [point for point, _ in starts(bench, "b")] == [150]
    entry = bench.adopted(PLACE)[-1]
    words = bench.adoptions.words("machines", entry.words)
    assert words is not None
    assert list(words.said) == [incident]
    assert 240 <= entry.first_offset <= 3 * SPIKES[1]
    assert counted("offkey_points_excused_total") > before
    assert counted("offkey_feedback") == 1


def test_the_same_alerts_come_of_a_run_that_is_given_the_log_and_hears_nothing() -> None:
    bench = filled()
    worker = worker_of(bench)
    marked(bench, worker)
    drain(worker)
    assert by_id(given_the_log(bench)) == by_id(bench.alerts())


def test_a_retraction_undoes_it_from_a_record_on() -> None:
    bench = filled()
    worker = worker_of(bench)
    incident = marked(bench, worker)
    while bench.broker.committed[PLACE] < 3 * 140:
        worker.step()
    sent = tombstone(incident, "feedback")
    bench.broker.append("feedback", None, key=sent.key)
    drain(worker)
    assert [point for point, _ in starts(bench)] == [SPIKES[0], SPIKES[2]]
    assert [bool(entry.words) for entry in bench.adopted(PLACE)][-2:] == [True, False]
    assert by_id(given_the_log(bench)) == by_id(bench.alerts())


def test_what_is_expected_is_muted_until_its_end() -> None:
    bench = filled()
    end_ms = int(json.loads(bench.broker.topics["metrics"][0][3 * 150].value or b"")["ts"])
    worker = worker_of(bench)
    marked(bench, worker, "expected", until_ms=end_ms)
    drain(worker)
    assert [point for point, _ in starts(bench)] == [SPIKES[0], SPIKES[2]]


def test_an_alert_says_what_had_moved_its_threshold() -> None:
    bench = filled()
    worker = worker_of(bench)
    incident = marked(bench, worker, "confirmed")
    drain(worker)
    told_of = [alert for alert in bench.alerts() if "feedback" in alert]
    assert {alert["state"] for alert in told_of} <= {"opened", "reopened"}
    assert {alert["series"] for alert in told_of} == {"a"}
    for alert in told_of:
        assert alert["feedback"]["incidents"] == [incident]
        assert alert["feedback"]["raised_by"] == pytest.approx(-3.0103, abs=1e-4)
    for record in bench.broker.records("alerts"):
        event = structured(dict(record.headers), record.value or b"")
        jsonschema.validate(msgspec.json.decode(msgspec.json.encode(event)), SCHEMA)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_worker_killed_anywhere_around_it_publishes_what_its_log_says(exactly_once: bool) -> None:
    """The topic says something else by then: what is read again follows the log."""
    kill_at, seen = 1, set[str]()
    while True:
        bench, countdown = filled(exactly_once=exactly_once), Countdown(kill_at)
        with suppress(Killed):
            first = worker_of(bench)
            incident = marked(bench, first)
            # It ends around the entry, and around what is published behind it.
            _sabotage(first, countdown)
            drain(first)
        if countdown.left > 0:
            break
        seen.add(countdown.last)
        bench.broker.members.clear()
        bench.broker.append("feedback", None, key=incident.encode())
        drain(worker_of(bench, max_poll_records=250))
        found, expected = bench.alerts(), given_the_log(bench, 400, exactly_once=exactly_once)
        assert by_id(found) == by_id(expected), countdown.last
        assert len(found) == len(by_id(found)) or not exactly_once
        kill_at += 7
    assert len(seen) >= 3


def _sabotage(worker: Worker, countdown: Countdown) -> None:
    wrap = Saboteur(countdown).wrap
    worker.source, worker.delivery = wrap(worker.source), wrap(worker.delivery)
    worker.partitions.source = worker.source


class Failing(MemoryAdoptions):
    """Storage that keeps no words while it is told so."""

    fails = False

    def keep(self, stream: str, words: Words) -> None:
        if self.fails:
            raise TransientError("storage is full")
        super().keep(stream, words)


def test_where_storage_does_not_take_it_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    adoptions = Failing()
    bench = filled(adoptions=adoptions)
    worker = worker_of(bench)
    adoptions.fails = True
    marked(bench, worker)
    drain(worker)
    assert [point for point, _ in starts(bench)] == SPIKES
    assert (
        "metrics/0: goes on with what was said of 0 incidents and adopts what was said since later" in caplog.text
    )
    assert {entry.words for entry in bench.adopted(PLACE)} == {""}
    assert by_id(given_the_log(bench)) == by_id(bench.alerts())


def test_words_that_are_lost_are_said_and_adopted_anew(caplog: pytest.LogCaptureFixture) -> None:
    bench = filled()
    worker = worker_of(bench)
    marked(bench, worker)
    while bench.broker.committed[PLACE] < 3 * 100:
        worker.step()
    (name,) = (name for name in bench.adoptions.storage.objects if "/said/" in name)
    bench.adoptions.storage.objects[name] = b"{}"
    bench.broker.members.clear()
    drain(worker_of(bench))
    assert f"{name} is damaged" in caplog.text
    assert bench.adopted(PLACE)[-1].words == name.rpartition("/")[2].removesuffix(".json")


def test_a_stream_of_records_heeds_it_too() -> None:
    bench = filled()
    worker = worker_of(bench, max_poll_records=20)
    while not starts(bench, "", "payments"):
        worker.step()
    before = starts(bench, "", "payments")
    incident = first_incident(bench, "", "payments")
    say(bench, verdict_on(bench, incident))
    drain(worker)
    deaf = filled()
    drain(deaf.worker(max_poll_records=20))
    assert (300, "opened") in starts(deaf, "", "payments")
    assert (300, "opened") not in starts(bench, "", "payments")
    assert starts(bench, "", "payments")[: len(before)] == before
    place = TopicPartition("payments", 0)
    assert bench.adopted(place, "payments")[-1].words


def test_what_was_just_excused_is_part_of_the_state() -> None:
    bench = filled()
    worker = worker_of(bench)
    marked(bench, worker)
    while bench.broker.committed[PLACE] < 3 * (SPIKES[1] + 2):
        worker.step()
    (pipeline,) = (lane.pipeline for lane in worker.lanes if lane.name == "machines")
    state = pipeline.snapshot(PLACE)
    assert '"a":' in state["feedback"].tobytes().decode()
    other, _ = lanes()
    other.pipeline.restore(PLACE, [state])
    again = other.pipeline.snapshot(PLACE)
    assert again.keys() == state.keys()
    assert again["feedback"].tobytes() == state["feedback"].tobytes()


def test_without_feedback_the_state_is_what_it_was() -> None:
    bench = filled()
    worker = worker_of(bench)
    drain(worker)
    assert "feedback" not in next(lane.pipeline for lane in worker.lanes).snapshot(PLACE)


def test_what_was_excused_last_is_forgotten_with_a_series_that_has_to_leave() -> None:
    pipeline: Any = lanes(series=SERIES.model_copy(update={"max_series": 1}))[0].pipeline
    pipeline.divide(PLACE, 1)
    records = [Record(n, BEGIN_MS + 10**9, *pair) for n, pair in enumerate(series_payloads(2)[:2])]
    pipeline.process([PartitionRecords(PLACE, records[:1])])
    kept = b'{"a":{"index":9,"threshold":50.0,"incidents":["i1"]}}'
    pipeline._feedback.restore(PLACE, kept)
    assert pipeline._feedback.snapshot(PLACE) == kept
    pipeline.process([PartitionRecords(PLACE, records[1:])])
    assert pipeline._feedback.snapshot(PLACE) == b""
