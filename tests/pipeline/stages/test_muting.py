"""What is told of storms and of maintenance windows, whatever the polls and restarts."""

import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import Alert, StormView, message, structured
from pipeline.stages.incidents import ENDS, STARTS, State
from pipeline.stages.muting import WORST, Maintenance, Muted, Muting, StormLimit
from pipeline.stages.silence import Passed

PLACE, OTHER = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
STORM = StormLimit(4, 100)
SCHEMA = json.loads(files("pipeline").joinpath("alert.schema.json").read_text())


class Happened(NamedTuple):
    """What a record did: its event time, which is its partition's time, and what it did to an incident."""

    time_ms: int
    series: str = ""
    state: State | None = None
    severity: int = 0


def muting(storm: StormLimit | None = STORM, *maintenance: Maintenance) -> Muting:
    return Muting("machines", "v1", lambda name: {"host": name}, storm=storm, maintenance=maintenance)


def alerts_of(records: Sequence[Happened], place: TopicPartition = PLACE) -> list[Alert]:
    """Return an alert for each record that did something; a series' incidents are numbered."""
    begun: dict[str, tuple[int, int]] = {}
    made: list[Alert] = []
    for offset, (time_ms, series, state, severity) in enumerate(records):
        if state is None:
            continue
        number, opened_ms = begun.get(series, (0, 0))
        if state in STARTS and state != "reopened":
            number, opened_ms = begun[series] = (number + 1, time_ms)
        made.append(
            Alert(
                incident=f"{series}-{number}",
                stream="machines",
                series=series,
                fields={"host": series},
                state=state,
                severity=("minor", "major", "critical")[severity],
                score=30.0 + 10 * severity,
                threshold=30.0,
                opened_ms=opened_ms,
                event_ms=time_ms,
                features={},
                model_version="v1",
                topic=place.topic,
                partition=place.partition,
                offset=offset,
            )
        )
    return made


def run(
    stage: Muting, records: Sequence[Happened], cuts: Sequence[int] = (), place: TopicPartition = PLACE
) -> tuple[list[Alert], list[Muted]]:
    """Follow the records in polls that end at the cuts; at negated ones with a restart as well."""
    alerts = alerts_of(records, place)
    time_ms_N = np.maximum.accumulate(np.array([one.time_ms for one in records], np.int64))
    edges = sorted({0, len(records), *(abs(cut) for cut in cuts)})
    none = np.zeros(0, np.int64)
    told, muted = list[Alert](), list[Muted]()
    for low, high in pairwise(edges):
        passed = Passed(np.arange(low, high), time_ms_N[low:high], 0, none, none)
        polled = stage.follow([each for each in alerts if low <= each.offset < high], {place: passed})
        told += polled[0]
        muted += polled[1]
        if -high in cuts:
            kept, stage = stage.snapshot(place), muting(stage.limit, *stage._maintenance)
            stage.restore(place, kept)
            assert stage.snapshot(place) == kept
    return told, muted


def course(told: Sequence[Alert]) -> list[tuple[int, str, str]]:
    return [(alert.offset, alert.series, alert.state) for alert in told]


def opens(time_ms: int, names: str, severity: int = 0) -> list[Happened]:
    return [Happened(time_ms, name, "opened", severity) for name in names]


def ends(time_ms: int, names: str) -> list[Happened]:
    return [Happened(time_ms, name, "resolved") for name in names]


def test_a_storm_is_one_alert_that_names_the_worst() -> None:
    records = [*opens(0, "a"), *opens(10, "b", 1), *opens(20, "cdefg"), Happened(30, "f", "worsened", 2)]
    told, muted = run(muting(), records)
    assert course(told) == [(0, "a", "opened"), (1, "b", "opened"), (2, "c", "opened"), (3, "", "storm")]
    assert [(one.alert.series, one.alert.state, one.reason) for one in muted] == [
        *((name, "opened", "storm") for name in "defg"),
        ("f", "worsened", "storm"),
    ]
    storm = told[-1]
    assert (storm.severity, storm.score, storm.opened_ms, storm.event_ms) == ("major", None, 20, 20)
    assert isinstance(storm.storm, StormView)
    assert storm.storm.series == 4
    assert [member.series for member in storm.storm.worst] == ["b", "a", "c", "d"]


def test_a_storm_is_resolved_when_few_are_open_and_no_more_begin_and_the_rest_is_told() -> None:
    records = [*opens(0, "abcdefg"), *ends(50, "abcdef"), Happened(99), Happened(100), Happened(110)]
    told, muted = run(muting(), [*records, *ends(120, "g")])
    # Those of `a`, `b` and `c` had been told; `g` is open when the partition's time is 100.
    assert course(told)[:7] == [
        (0, "a", "opened"),
        (1, "b", "opened"),
        (2, "c", "opened"),
        (3, "", "storm"),
        *((offset, name, "resolved") for offset, name in zip((7, 8, 9), "abc", strict=True)),
    ]
    assert course(told)[7:] == [(14, "", "resolved"), (14, "g", "opened"), (16, "g", "resolved")]
    resolved, late = told[7], told[8]
    assert resolved.incident == told[3].incident
    assert isinstance(resolved.storm, StormView)
    assert resolved.storm.series == 7
    assert len(resolved.storm.worst) == WORST
    assert (late.incident, late.opened_ms, late.event_ms, late.features) == ("g-1", 0, 100, {})
    assert len(muted) == 4 + 3


def test_incidents_that_are_over_when_the_storm_begins_do_not_keep_it_up() -> None:
    told, _ = run(muting(), [*opens(0, "abc"), *ends(10, "abc"), *opens(20, "d"), Happened(90), Happened(100)])
    assert course(told)[-3:] == [(6, "", "storm"), (8, "", "resolved"), (8, "d", "opened")]


def test_a_storm_goes_on_while_half_as_many_are_open() -> None:
    told, _ = run(muting(), [*opens(0, "abcdef"), Happened(10_000), *ends(10_000, "cdef"), *ends(10_001, "a")])
    assert course(told)[-2:] == [(11, "a", "resolved"), (11, "", "resolved")]


def test_series_that_follow_late_are_told_though_the_storm_is_open() -> None:
    told, _ = run(muting(), [*opens(0, "abcdef"), *opens(500, "x"), *opens(550, "y"), *opens(560, "z")])
    # The second of them within the span is half a storm: the storm has gone on.
    assert course(told)[4:] == [(6, "x", "opened")]


def test_what_grows_tenfold_is_critical_once() -> None:
    names = [chr(ord("A") + number) for number in range(60)]
    told, _ = run(muting(), [Happened(number, name, "opened") for number, name in enumerate(names)])
    assert course(told)[3:] == [(3, "", "storm"), (39, "", "worsened")]
    assert [alert.severity for alert in told[3:]] == ["major", "critical"]
    assert isinstance(told[-1].storm, StormView)
    assert told[-1].storm.series == 40


def test_one_series_that_flaps_is_no_storm() -> None:
    told, muted = run(muting(), [each for at in range(20) for each in (*opens(at, "a"), *ends(at, "a"))])
    assert len(told) == 40
    assert not muted


def test_slow_beginnings_are_no_storm() -> None:
    told, _ = run(muting(), [Happened(34 * number, name, "opened") for number, name in enumerate("abcdefgh")])
    assert {alert.state for alert in told} == {"opened"}


def test_silences_are_counted_to_a_storm_and_told_by_their_deadline() -> None:
    silent = [Happened(7, name, "silent") for name in "abcde"]
    told, _ = run(muting(), [*silent, *ends(8, "abcd"), Happened(500)])
    assert (told[3].state, told[-1].series, told[-1].state, told[-1].event_ms) == ("storm", "e", "silent", 7)


def test_what_begins_in_a_maintenance_window_is_told_at_its_end_if_it_is_open_then() -> None:
    window = Maintenance("db-?", 100, 200)
    records = [
        *(
            Happened(at, name, "opened")
            for at, name in ((99, "db-1"), (100, "db-2"), (100, "db-10"), (150, "db-3"))
        ),
        Happened(160, "db-3", "worsened", 2),
        *(Happened(170, name, "resolved") for name in ("db-2", "db-1")),
        Happened(199),
        Happened(205, "db-4", "opened"),
        Happened(300, "db-3", "resolved"),
    ]
    told, muted = run(muting(None, window), records)
    assert course(told) == [
        (0, "db-1", "opened"),
        (2, "db-10", "opened"),
        (6, "db-1", "resolved"),
        (8, "db-3", "opened"),
        (8, "db-4", "opened"),
        (9, "db-3", "resolved"),
    ]
    late = told[3]
    assert (late.severity, late.opened_ms, late.event_ms, late.incident) == ("critical", 150, 205, "db-3-1")
    assert [(one.alert.series, one.alert.state, one.reason) for one in muted] == [
        ("db-2", "opened", "maintenance"),
        ("db-3", "opened", "maintenance"),
        ("db-3", "worsened", "maintenance"),
        ("db-2", "resolved", "maintenance"),
    ]


def test_windows_that_follow_each_other_are_one() -> None:
    windows = (Maintenance("*", 0, 100), Maintenance("a", 90, 200))
    told, _ = run(muting(None, *windows), [*opens(10, "ab"), Happened(120), Happened(250)])
    assert course(told) == [(2, "b", "opened"), (3, "a", "opened")]


def test_a_series_whose_clock_is_behind_is_not_muted_after_the_window() -> None:
    told, muted = run(muting(None, Maintenance("*", 0, 100)), [Happened(150), *opens(50, "a")])
    assert course(told) == [(1, "a", "opened")]
    assert not muted


def test_each_window_ends_at_its_own_time() -> None:
    windows = (Maintenance("a", 0, 100), Maintenance("[bc]", 0, 200), Maintenance("d", 0, 300))
    told, _ = run(muting(None, *windows), [*opens(10, "abcd"), Happened(100), Happened(200), Happened(300)])
    assert course(told) == [(4, "a", "opened"), (5, "b", "opened"), (5, "c", "opened"), (6, "d", "opened")]


def test_what_is_open_at_the_end_of_a_window_may_be_a_storm() -> None:
    told, _ = run(muting(STORM, Maintenance("*", 0, 100)), [*opens(10, "abcdef"), Happened(100)])
    assert course(told) == [(6, "a", "opened"), (6, "b", "opened"), (6, "c", "opened"), (6, "", "storm")]


def test_a_storm_is_over_where_the_setting_was_taken_away() -> None:
    first, second = muting(), muting(None)
    run(first, opens(0, "abcde"))
    second.restore(PLACE, first.snapshot(PLACE))
    none = np.zeros(0, np.int64)
    told, _ = second.follow([], {PLACE: Passed(np.array([9]), np.array([1]), 0, none, none)})
    assert course(told) == [(9, "", "resolved"), (9, "d", "opened"), (9, "e", "opened")]


def test_partitions_have_their_own_storms_and_are_forgotten() -> None:
    stage = muting()
    run(stage, opens(0, "abc"))
    told, _ = run(stage, opens(0, "xyz"), place=OTHER)
    assert len(told) == 3
    stage.drop(PLACE)
    told, _ = run(stage, opens(5, "d"))
    assert course(told) == [(0, "d", "opened")]


def test_the_alert_of_a_storm_follows_the_schema() -> None:
    told, _ = run(muting(), opens(0, "abcd"))
    for alert in told:
        sent = message(alert, "offkey.alerts")
        event = json.loads(msgspec.json.encode(structured(dict(sent.headers), sent.value or b"")))
        jsonschema.validate(event, SCHEMA, cls=jsonschema.Draft202012Validator)
        assert ("storm" in event["data"]) == (alert.state == "storm")
    assert dict(sent.headers)["ce_type"] == b"offkey.incident.storm"


@st.composite
def lives(draw: st.DrawFn) -> list[Happened]:
    """Draw records of up to eight series whose incidents begin, go on and end."""
    time_ms, open_now, ended = 0, set[str](), set[str]()
    records: list[Happened] = []
    for _ in range(draw(st.integers(1, 60))):
        time_ms += draw(st.sampled_from([0, 0, 1, 10, 60, 250]))
        series, severity = draw(st.sampled_from("abcdefgh")), draw(st.integers(0, 2))
        state: State | None
        if series in open_now:
            state = draw(st.sampled_from(["worsened", "repeated", "resolved", "stale", None]))
        else:
            state = draw(st.sampled_from(["opened", "opened", "silent", None]))
            state = "reopened" if state == "opened" and series in ended and severity else state
        # A deadline is that of one silence of a series: its records do not go back in time.
        time_ms += state == "silent"
        if state in ENDS:
            open_now.discard(series)
            (ended.add if state == "resolved" else ended.discard)(series)
        elif state is not None:
            open_now.add(series)
        records.append(Happened(time_ms, series if state else "", state, severity))
    return records


WINDOWS = st.sampled_from(
    [(), (Maintenance("[a-d]", 20, 150),), (Maintenance("*", 0, 90), Maintenance("b", 80, 300))]
)


@settings(max_examples=200, deadline=None)
@given(
    records=lives(),
    cuts=st.lists(st.integers(-60, 60), max_size=8),
    storm=st.sampled_from([None, StormLimit(2, 30), StormLimit(3, 100), StormLimit(5, 1000)]),
    windows=WINDOWS,
)
def test_polls_and_restarts_do_not_matter(
    records: list[Happened], cuts: list[int], storm: StormLimit | None, windows: tuple[Maintenance, ...]
) -> None:
    within = [cut for cut in cuts if 0 < abs(cut) < len(records)]
    told, muted = run(muting(storm, *windows), records, within)
    expected, expected_muted = run(muting(storm, *windows), records)
    assert told == expected
    assert [alert.id for alert in told] == [alert.id for alert in expected]
    assert muted == expected_muted


@settings(max_examples=200, deadline=None)
@given(records=lives(), storm=st.sampled_from([None, StormLimit(2, 30), StormLimit(4, 100)]), windows=WINDOWS)
def test_nobody_is_told_of_half_an_incident(
    records: list[Happened], storm: StormLimit | None, windows: tuple[Maintenance, ...]
) -> None:
    """Every alert is told or muted, each told course begins and ends as such, and in the end nothing is hidden."""
    happened = alerts_of(records)
    told, muted = run(muting(storm, *windows), [*records, Happened(records[-1].time_ms + 10_000)])
    heard = {alert.id for alert in [*told, *(one.alert for one in muted)]}
    assert {alert.id for alert in happened} <= heard
    assert len({alert.id for alert in told}) == len(told)
    open_now: set[str] = set()
    for alert in told:
        assert (alert.state in STARTS) != (alert.incident in open_now)
        (open_now.discard if alert.state in ENDS else open_now.add)(alert.incident)
    last = {alert.incident: alert.state for alert in happened}
    if not any(alert.incident in open_now for alert in told if alert.state == "storm"):
        assert open_now == {incident for incident, state in last.items() if state not in ENDS}


@pytest.mark.parametrize("series", [4, 5, 9])
def test_a_limit_changed_at_a_restart_holds_from_there(series: int) -> None:
    first, second = muting(StormLimit(series, 100)), muting(StormLimit(3, 100))
    run(first, opens(0, "abc"))
    second.restore(PLACE, first.snapshot(PLACE))
    told, _ = run(second, opens(1, "d"))
    assert [alert.state for alert in told] == ["storm"]
