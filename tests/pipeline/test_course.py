"""The whole course of incidents, from records to alerts: whatever the polls, and wherever a restart comes."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import metrics
from pipeline.alert_settings import AlertSettings
from pipeline.part_memory import Arrays, PartMemory, read_part
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert, StormView
from pipeline.stages.muting import Muted
from pipeline.stream import StreamPipeline
from tests.pipeline.test_streams import records_of
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, Bench, Payload, drain, lanes, series_rows

PLACES = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
NAMES = ["a", "b", "c", "d", "e", "f"]
POINTS, STORM_AT, REPAIRED, BACK = 130, 40, (70, 85), 115
"""Points of each series; where all are strange; when `e` and `f` are maintained, and strange; when `d` is back."""


def time_of(point: int) -> int:
    return BEGIN_MS + STEP_MS * (HISTORY + point)


def payloads() -> list[Payload]:
    """Six series: five strange at once, two in maintenance and one of them beyond; `d` is gone for long."""
    strange = {name: [STORM_AT + number] for number, name in enumerate(NAMES[:5])}
    strange |= {"e": [STORM_AT + 4, 72], "f": [82], "a": [STORM_AT, 58, 100]}
    values = series_rows(NAMES, POINTS, 2, strange)
    values[NAMES.index("f"), 82:90] += 6
    return [
        (name.encode(), json.dumps({"ts": time_of(at), "cpu": values[i, at, 0], "mem": values[i, at, 1]}).encode())
        for at in range(POINTS)
        for i, name in enumerate(NAMES)
        if name != "d" or not 60 <= at < BACK
    ]


RECORDS = records_of(payloads())


def place_of(key: bytes | None) -> TopicPartition:
    return PLACES[key in (b"e", b"f")]


def alert_settings(**changed: Any) -> AlertSettings:
    moments = [datetime.fromtimestamp(time_of(point) / 1000, UTC) for point in REPAIRED]
    asked: dict[str, Any] = {
        "budget": "1 per day",
        "stream_budget": "1.5 per day",
        "repeat_after": "10 min",
        "silence": 5,
        "storm": 3,
        "storm_within": "8 min",
        "maintenance": [{"series": "[ef]", "from": moments[0], "to": moments[1], "note": "disks"}],
    }
    return AlertSettings.model_validate({**asked, **changed})


def pipeline(**changed: Any) -> StreamPipeline:
    return lanes(SERIES.model_copy(update={"alerts": alert_settings(**changed)}))[0].pipeline


Told = tuple[list[Alert], list[Muted], dict[int, float]]


def run(edges: Sequence[int], restarts: Sequence[int] = (), **changed: Any) -> Told:
    """Follow the records of two partitions in polls with these edges; after some comes a restart."""
    stages, alerts, muted, thresholds = pipeline(**changed), list[Alert](), list[Muted](), dict[int, float]()
    parts = [(place, [each for each in RECORDS if place_of(each.key) == place]) for place in PLACES]
    for low, high in pairwise([0, *edges, len(RECORDS)]):
        arrived = [
            PartitionRecords(place, own)
            for place, all_of in parts
            if (own := [each for each in all_of if low <= each.offset < high])
        ]
        outcome = stages.process(arrived)
        alerts += outcome.alerts
        muted += outcome.muted
        thresholds |= dict(zip(outcome.scored.offset_M.tolist(), outcome.scored.threshold_M.tolist(), strict=True))
        if high in restarts:
            stages = restarted(stages, **changed)
    return alerts, muted, thresholds


def restarted(stages: StreamPipeline, **changed: Any) -> StreamPipeline:
    """Return the stages of a new process, from checkpoints of both partitions in parts of one series."""
    fresh = pipeline(**changed)
    for place in PLACES:
        stages.begin_chain(place)
        parts: list[Arrays] = []
        closes = False
        while not closes:
            memory = PartMemory()
            closes = stages.cut(place, memory, 1).closes
            parts.append(read_part(bytearray(memory.seal({})))[1])
        fresh.restore(place, parts)
    assert fresh.open_incidents == stages.open_incidents
    return fresh


def by_place(told: Sequence[Alert]) -> list[tuple[str, bytes]]:
    """Return each alert's id and all that it says, in the order of its partition."""
    in_order = sorted(told, key=lambda alert: alert.partition)
    return [(alert.id, msgspec.json.encode(alert)) for alert in in_order]


@pytest.fixture(scope="module")
def undisturbed() -> dict[int, Told]:
    return {delay: run([], delay=delay) for delay in (0, 3)}


def test_the_stream_has_all_that_an_incident_may_go_through(undisturbed: dict[int, Told]) -> None:
    for alerts, muted, thresholds in undisturbed.values():
        states = {str(alert.state) for alert in alerts}
        assert {"opened", "resolved", "stale", "silent", "storm"} <= states
        assert {(one.alert.state, one.reason) for one in muted} >= {("opened", "storm"), ("opened", "maintenance")}
        # The three that are left when `d` is gone have a greater share each.
        of_a = {threshold for offset, threshold in thresholds.items() if RECORDS[offset].key == b"a"}
        assert len(of_a) > 1
        storm = next(alert for alert in alerts if alert.state == "storm")
        assert isinstance(storm.storm, StormView)
        assert storm.storm.series == 3


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(1, len(RECORDS) - 1), max_size=12, unique=True),
    restarts=st.integers(0, 2),
    delay=st.sampled_from([0, 3]),
)
def test_polls_and_restarts_change_no_alert(
    undisturbed: dict[int, Told], cuts: list[int], restarts: int, delay: int
) -> None:
    expected, expected_muted, thresholds = undisturbed[delay]
    told, muted, found = run(sorted(cuts), cuts[:restarts], delay=delay)
    assert by_place(told) == by_place(expected)
    assert by_place([one.alert for one in muted]) == by_place([one.alert for one in expected_muted])
    assert found == thresholds


def test_a_worker_that_is_lost_tells_and_counts_what_is_muted_once() -> None:
    series = SERIES.model_copy(update={"alerts": alert_settings()})
    told: list[list[str]] = []
    counted: list[float] = []
    for lost_after in ((), (7, 12, 19)):
        bench = Bench(partitions=1)
        bench.fill(payloads())
        before = muted_of("machines")
        for steps in lost_after:
            worker = bench.worker(max_poll_records=23, series=series)
            for _ in range(steps):
                worker.step()
            bench.broker.members.clear()
        drain(bench.worker(max_poll_records=23, series=series))
        told.append([alert["id"] for alert in bench.alerts()])
        counted.append(muted_of("machines") - before)
        assert "storm" in {alert["state"] for alert in bench.alerts()}
    assert told[1] == told[0]
    assert counted[1] == counted[0] > 0


def muted_of(stream: str) -> float:
    (metric,) = metrics.ALERTS_MUTED.collect()
    return sum(
        one.value for one in metric.samples if one.name.endswith("_total") and one.labels["stream"] == stream
    )
