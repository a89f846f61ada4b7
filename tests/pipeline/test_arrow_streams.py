"""Streams of Arrow records, from bytes to alerts: what JSON records of the same rows come to, however cut."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.files import from_files, to_files
from pipeline.lanes import build_lane
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages import tables
from pipeline.stream import Outcome, Scored, StreamPipeline
from tests.arrows import arrow_of, rows_of, stream_of
from tests.pipeline.test_bounded_series import with_guests
from tests.records import Record
from tests.streams import (
    BEGIN_MS,
    CPU,
    FEATURES,
    SERIES,
    STEP_MS,
    Bench,
    Payload,
    drain,
    feature_payloads,
    features_detector,
    lanes,
    series_payloads,
)

PLACE = TopicPartition("metrics", 0)
ARROW = SERIES.model_copy(update={"format": "arrow", "series": ["host"]})
PAYLOADS = series_payloads(110)
CUTS = st.lists(st.integers(1, len(PAYLOADS) - 1), max_size=12)


def records_of(payloads: Sequence[Payload]) -> list[Record]:
    return [Record(n, BEGIN_MS + 10**9, key, value) for n, (key, value) in enumerate(payloads)]


def run(pipeline: StreamPipeline, records: Sequence[Record], cuts: Sequence[int] = ()) -> list[Outcome]:
    """Process the records in polls cut at these places; what was scored is read before the next poll."""
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    found = []
    for low, high in pairwise(edges):
        outcome = pipeline.process([PartitionRecords(PLACE, records[low:high])])
        scored = outcome.scored
        found.append(replace(outcome, scored_now=partial(_same, scored)))
    return found


def _same(scored: Scored) -> Scored:
    return scored


def scores(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], float]:
    """Return each point's score by its series and time."""
    return {
        (name, int(time_ms)): float(score)
        for outcome in outcomes
        for name, time_ms, score in zip(
            outcome.scored.series, outcome.scored.time_ms_M, outcome.scored.score_M, strict=True
        )
    }


def told(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what alerts tell but for the place of their records, which formats differ in."""
    own = {"incident", "offset", "row", "fields"}
    alerts = [alert for outcome in outcomes for alert in outcome.alerts]
    each = [{name: getattr(alert, name) for name in alert.__struct_fields__ if name not in own} for alert in alerts]
    return sorted(each, key=lambda alert: (alert["event_ms"], alert["series"], alert["state"]))


@settings(max_examples=15, deadline=None)
@given(CUTS)
def test_scores_and_alerts_are_those_of_json(cuts: list[int]) -> None:
    as_json = run(lanes()[0].pipeline, records_of(PAYLOADS))
    as_arrow = run(lanes(ARROW)[0].pipeline, records_of(arrow_of(PAYLOADS, cuts)))
    assert scores(as_arrow) == scores(as_json)
    assert told(as_arrow) == told(as_json)
    assert told(as_json)


@settings(max_examples=15, deadline=None)
@given(CUTS, st.lists(st.integers(1, 12), max_size=6))
def test_polls_do_not_matter(cuts: list[int], polls: list[int]) -> None:
    records = records_of(arrow_of(PAYLOADS, [55, 56, *cuts]))
    undisturbed = run(lanes(ARROW)[0].pipeline, records)
    cut = run(lanes(ARROW)[0].pipeline, records, polls)
    assert scores(cut) == scores(undisturbed)
    assert [alert for each in cut for alert in each.alerts] == list(undisturbed[0].alerts)


@pytest.mark.parametrize("bounds", [{"max_series": 4}, {"max_series": 5}, {"series_ttl": 1800.0}])
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 319), max_size=12), polls=st.lists(st.integers(1, 12), max_size=6))
def test_series_leave_with_the_rows_that_they_leave_with_in_json(
    bounds: dict[str, Any], cuts: list[int], polls: list[int]
) -> None:
    payloads = with_guests()
    as_json = run(lanes(SERIES.model_copy(update=bounds))[0].pipeline, records_of(payloads))
    as_arrow = run(lanes(ARROW.model_copy(update=bounds))[0].pipeline, records_of(arrow_of(payloads, cuts)), polls)
    assert scores(as_arrow) == scores(as_json)
    assert told(as_arrow) == told(as_json)
    reasons = [[why for each in outcomes for _, _, why in each.evicted] for outcomes in (as_arrow, as_json)]
    assert reasons[0] == reasons[1] != []


@pytest.mark.parametrize("delay", [0, 3])
def test_points_of_one_record_are_told_apart(delay: int) -> None:
    """By their row: whole history in one record gives each alert its own id, in the order of its rows."""
    settings = ARROW.model_copy(update={"alerts": ARROW.alerts.model_copy(update={"delay": delay})})
    (outcome,) = run(lanes(settings)[0].pipeline, records_of(arrow_of(series_payloads())))
    places = [(alert.offset, alert.row) for alert in outcome.alerts]
    assert places == sorted(places)
    assert len({alert.id for alert in outcome.alerts}) == len(outcome.alerts) > 4
    opened = [alert for alert in outcome.alerts if alert.state == "opened"]
    assert len({alert.incident for alert in opened}) == len(opened)
    # Four series take turns, so the row tells the time; a delayed alert stands at the row that let it be judged.
    for alert in outcome.alerts:
        assert alert.event_ms == BEGIN_MS + STEP_MS * (600 + alert.row // 4 - delay)
        assert alert.fields == {"host": alert.series}


@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_restored_state_goes_on_with_the_same_ids(at: int) -> None:
    records = records_of(arrow_of(PAYLOADS, range(30, 440, 41)))
    whole = run(lanes(ARROW)[0].pipeline, records)
    first, second = lanes(ARROW)[0].pipeline, lanes(ARROW)[0].pipeline
    before = run(first, records[:at])
    second.restore(PLACE, [first.snapshot(PLACE)])
    after = run(second, records[at:])
    ids = [alert.id for outcome in (*before, *after) for alert in outcome.alerts]
    assert ids == [alert.id for alert in whole[0].alerts]
    assert scores([*before, *after]) == scores(whole)


def test_records_of_features_are_judged_row_by_row() -> None:
    settings = FEATURES.model_copy(update={"format": "arrow"})
    detector = from_files(to_files(features_detector()))
    pipeline = build_lane("payments", settings, detector, "v1", CPU).pipeline
    rows = [json.loads(value or b"") for _, value in feature_payloads()]
    table = pa.record_batch({name: [row[name] for row in rows] for name in "abc"})
    records = records_of(
        [(None, stream_of(table.slice(0, 60), table.slice(60, 140))), (None, stream_of(table[200:]))]
    )
    (outcome,) = run(pipeline, records)
    (single,) = run(lanes()[1].pipeline, records_of(feature_payloads()))
    assert outcome.scored.score_M.tolist() == single.scored.score_M.tolist()
    places = [200 * alert.offset + alert.row for alert in outcome.alerts]
    assert places == [alert.offset for alert in single.alerts]
    assert {50, 51, 300} <= set(places)
    assert len({alert.id for alert in outcome.alerts}) == len(places)


def test_a_point_that_cannot_be_held_is_rejected_by_row() -> None:
    settings = ARROW.model_copy(update={"missing": "hold", "hold_points": 2})
    pipeline = lanes(settings)[0].pipeline
    mem = [None if n in (0, 5, 6, 7) else 0.2 for n in range(9)]
    rows = [{"host": "a", "ts": BEGIN_MS + STEP_MS * n, "cpu": 0.1, "mem": each} for n, each in enumerate(mem)]
    value = stream_of(pa.RecordBatch.from_pylist(rows))
    (outcome,) = run(pipeline, records_of([(None, value)]))
    assert [(reject.inner, reject.reason) for reject in outcome.rejects] == [
        (0, "missing_field"),
        (7, "held_too_long"),
    ]
    assert [rows_of(reject.value or b"") for reject in outcome.rejects] == [[rows[0]], [rows[7]]]


def late_and_twice(payloads: Sequence[Payload]) -> list[Payload]:
    """Repeat some rows and bring others late."""
    moved = [*payloads[:200], *payloads[150:160], *payloads[204:], *payloads[200:204]]
    return moved


def test_lateness_is_the_same_in_one_record_as_in_many() -> None:
    payloads = late_and_twice(PAYLOADS)
    counted = []
    for cuts in ([], [210], range(1, len(payloads))):
        pipeline = lanes(ARROW)[0].pipeline
        outcome = pipeline.process([PartitionRecords(PLACE, records_of(arrow_of(payloads, cuts)))])
        counted.append((outcome.late, outcome.points_scored, outcome.points_warming))
    as_json = lanes()[0].pipeline.process([PartitionRecords(PLACE, records_of(payloads))])
    assert counted == [(as_json.late, as_json.points_scored, as_json.points_warming)] * 3
    assert as_json.late == 14


def spoiled(record: bytes, rows: Sequence[int]) -> bytes:
    """Take a feature from some rows of a record."""
    table = pa.ipc.open_stream(record).read_all().combine_chunks().to_batches()[0]
    mem = [None if number in rows else value for number, value in enumerate(table.column("mem").to_pylist())]
    place = table.schema.get_field_index("mem")
    return stream_of(table.set_column(place, "mem", pa.array(mem, pa.float64())))


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_worker_scores_the_good_rows_and_dead_letters_the_others(exactly_once: bool) -> None:
    payloads = series_payloads()
    cuts = [250, 500]
    clean, bench = Bench(partitions=1), Bench(partitions=1, exactly_once=exactly_once)
    clean.fill(arrow_of(payloads, cuts))
    drain(clean.worker(series=ARROW))
    # Rows that are bad, and the same ones mended behind them.
    bad = [7, 100, 203]
    records = arrow_of(payloads, cuts)
    records[2] = (b"key", spoiled(records[2][1] or b"", bad))
    bench.fill([*records, (None, b"nonsense")])
    drain(bench.worker(series=ARROW))
    letters = bench.broker.records("dead")
    assert [rows_of(letter.value or b"")[0]["mem"] for letter in letters[:3]] == [None] * 3
    assert [dict(letter.headers).get("__connect.errors.row") for letter in letters] == [b"7", b"100", b"203", None]
    assert [letter.key for letter in letters] == [b"key"] * 3 + [None]
    assert letters[3].value == b"nonsense"
    before = [alert["id"] for alert in clean.alerts() if alert["offset"] < 2]
    assert [alert["id"] for alert in bench.alerts() if alert["offset"] < 2] == before
    assert any(alert["offset"] == 2 for alert in bench.alerts())


def test_a_restarted_worker_repeats_no_id_and_loses_none() -> None:
    """Killed at each commit: what is replayed from a checkpoint has the ids that it had."""
    bench, clean = Bench(partitions=1), Bench(partitions=1)
    records = arrow_of(series_payloads(), range(40, 800, 53))
    for each in (bench, clean):
        each.fill(records)
    drain(clean.worker(series=ARROW, max_poll_records=3))
    for _ in range(len(records)):
        bench.broker.members.clear()
        worker = bench.worker(series=ARROW, max_poll_records=2)
        worker.step()
        worker.step()
        worker.checkpoint()
        worker.step()
    drain(bench.worker(series=ARROW))
    assert [alert["id"] for alert in bench.alerts()] == [alert["id"] for alert in clean.alerts()]
    assert len(clean.alerts()) > 4


def test_rejected_rows_do_not_stop_a_worker_that_has_good_ones() -> None:
    """The limit is for records that are rejected one behind the other, whole."""
    bench = Bench(partitions=1)
    bench.options = bench.options.__class__("alerts", "dead", poll_timeout_s=0, max_rejects_in_a_row=2)
    record = arrow_of(PAYLOADS[:40])[0][1] or b""
    bench.fill([(None, spoiled(record, range(1, 40))), (None, b"x"), (None, b"x"), (None, record)])
    drain(bench.worker(series=ARROW))
    assert len(bench.broker.records("dead")) == 41


def test_parts_of_a_poll_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows a poll brings, so many are in memory at once."""
    records = [*arrow_of(series_payloads(), range(30, 800, 30)), (None, b"nonsense")]
    found = []
    for most in (10**6, 100, 1):
        monkeypatch.setattr(tables, "ROWS_AT_ONCE", most)
        bench = Bench(partitions=1)
        bench.fill(records)
        drain(bench.worker(series=ARROW))
        found.append((bench.alerts(), [letter.value for letter in bench.broker.records("dead")]))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == [b"nonsense"]
