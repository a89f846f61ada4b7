"""A stream that may hold few series: who leaves is the same whatever happens, and is told."""

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from pipeline.config import StreamSettings
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stream import StreamPipeline
from tests.records import Record
from tests.streams import BEGIN_MS, SERIES, Bench, Payload, drain, lanes, payloads_of, series_rows

PLACE = TopicPartition("metrics", 0)


def bounded(max_series: int = 3, ttl_s: float | None = None, **alerts: Any) -> StreamSettings:
    changed = {"max_series": max_series, "series_ttl": ttl_s}
    return SERIES.model_copy(update=changed | {"alerts": SERIES.alerts.model_copy(update=alerts)})


def with_guests() -> list[Payload]:
    """Series a and b go on, a in an incident at the end; guests come two at a time for 20 points each, and go."""
    names = ["a", "b", *(f"guest-{number}" for number in range(8))]
    values = series_rows(names, 80, 5, {"a": [75], "guest-1": [17], "guest-2": [37]})
    records = payloads_of(names, values)
    by_point = [records[low : low + len(names)] for low in range(0, len(records), len(names))]
    return [
        each
        for point, rows in enumerate(by_point)
        for each in [*rows[:2], *rows[2 + 2 * (point // 20) : 4 + 2 * (point // 20)]]
    ]


RECORDS = [Record(n, BEGIN_MS + 10**9, *payload) for n, payload in enumerate(with_guests())]


def run(pipeline: StreamPipeline, low: int, high: int) -> list[Any]:
    if low == high:
        return []
    outcome = pipeline.process([PartitionRecords(PLACE, RECORDS[low:high])])
    scored = outcome.scored
    judged = scored.score_M.tolist(), scored.threshold_M.tolist()
    found: list[Any] = list(zip(scored.offset_M.tolist(), scored.series, *judged, strict=True))
    found += [(alert.offset, alert.series, alert.state, alert.score, alert.id) for alert in outcome.alerts]
    found += [(alert.id, alert.state, why) for alert, why in outcome.muted]
    return found + [(offset, reason) for _, offset, reason in outcome.evicted]


TOLD = {"silence": 5, "stream_budget": "2 per day", "storm": 2, "storm_within": 1800.0}
"""Of which a series that leaves is a part: the silent, the live, those in a storm."""


@pytest.mark.parametrize(
    ("max_series", "ttl_s", "told"),
    [(3, None, {}), (3, 600.0, {}), (4, None, TOLD), (5, None, TOLD), (1000, 1800.0, TOLD)],
)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, len(RECORDS)), max_size=5), restarts=st.booleans())
def test_neither_polls_nor_restarts_matter(
    max_series: int, ttl_s: float | None, told: dict[str, Any], cuts: list[int], restarts: bool
) -> None:
    asked = bounded(max_series, ttl_s, **told)
    usual = run(lanes(asked)[0].pipeline, 0, len(RECORDS))
    pipeline, found = lanes(asked)[0].pipeline, list[Any]()
    for low, high in pairwise([0, *sorted(cuts), len(RECORDS)]):
        found += run(pipeline, low, high)
        if restarts:
            state = pipeline.snapshot(PLACE)
            pipeline = lanes(asked)[0].pipeline
            pipeline.restore(PLACE, [state])
    assert sorted(found, key=repr) == sorted(usual, key=repr)
    assert any(each[-1] == ("max_series" if max_series < 1000 else "series_ttl") for each in usual)


def test_the_silence_of_a_series_that_leaves_is_over() -> None:
    pipeline = lanes(bounded(1000, 1800.0, silence=5))[0].pipeline
    found = run(pipeline, 0, len(RECORDS))
    left = [offset for offset, reason in (each for each in found if len(each) == 2)]
    told = [each[:3] for each in found if len(each) == 5]
    silent = {series for _, series, state in told if state == "silent"}
    over = [(offset, series) for offset, series, state in told if state == "stale" and offset in left]
    assert silent == {f"guest-{number}" for number in range(6)}
    assert sorted(series for _, series in over) == [f"guest-{number}" for number in range(4)]
    # Of the other silent ones none has ended.
    assert pipeline.open_incidents == 2 + ("a" in {series for _, series, state in told if state == "opened"})


def test_the_incident_of_a_series_that_leaves_is_stale_and_its_state_is_gone() -> None:
    pipeline = lanes(bounded(4))[0].pipeline
    found = run(pipeline, 0, len(RECORDS))
    assert pipeline.series_held == 4
    states = [(each[1], each[2]) for each in found if len(each) == 5]
    assert states.count(("guest-1", "opened")) == states.count(("guest-1", "stale")) == 1
    gone = next(each[0] for each in found if len(each) == 5 and each[1:3] == ("guest-1", "stale"))
    assert (gone, "max_series") in found
    # Back again, it is a new series: warming, with no score.
    again = Record(len(RECORDS), BEGIN_MS + 10**9, b"guest-1", RECORDS[-1].value)
    outcome = pipeline.process([PartitionRecords(PLACE, [again])])
    assert (outcome.points_scored, outcome.points_warming) == (0, 1)


def test_a_quiet_series_leaves_after_its_time() -> None:
    pipeline = lanes(bounded(1000, ttl_s=1800.0))[0].pipeline
    found = run(pipeline, 0, len(RECORDS))
    assert {each[1] for each in found if len(each) == 2} == {"series_ttl"}
    # Of 80 minutes the last pair of guests but one ended 20 ago, the pair before 40 ago.
    assert pipeline.series_held == 6


def test_a_worker_counts_those_that_leave_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def counted() -> float:
        labels = {"stream": "machines", "reason": "max_series"}
        return REGISTRY.get_sample_value("offkey_series_evicted_total", labels) or 0.0

    bench, before = Bench(partitions=2), counted()
    for number in range(10):
        for place in (0, 1):
            key, value = f"{place}-{number}".encode(), RECORDS[0].value
            bench.broker.append("metrics", value, key=key, partition=place, timestamp=BEGIN_MS + 10**9)
    with caplog.at_level(logging.WARNING, "pipeline.worker"):
        worker = bench.worker(series=bounded(5), max_poll_records=2)
        drain(worker)
        # Of five each of two partitions has a share of three.
        assert worker.lanes[0].pipeline.series_held == 6
        worker.checkpoint()
        worker.source.close()
        other = bench.worker(series=bounded(5))
        drain(other)
    assert other.lanes[0].pipeline.series_held == 6
    assert counted() - before == 14
    said = [record.getMessage() for record in caplog.records if "max_series" in record.getMessage()]
    assert [text.split(":")[0] for text in said] == ["metrics/0", "metrics/1"]


def test_features_have_no_series_to_bound() -> None:
    features = {"topic": "payments", "kind": "features", "model": {"architecture": "vanilla"}}
    for key, value in (("max_series", 5), ("series_ttl", "7d")):
        with pytest.raises(ValueError, match="belong to no series"):
            StreamSettings.model_validate({**features, key: value})
    assert StreamSettings.model_validate({"topic": "a", "series_ttl": "never"}).series_ttl is None
