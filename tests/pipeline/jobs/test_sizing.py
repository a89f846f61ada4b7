"""`offkey plan`: figures that follow from what is measured, and what is measured against the thing itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.files import from_files, to_files
from pipeline import cli
from pipeline.config import StreamSettings, load_settings
from pipeline.connectors.rehearsed import RehearsedSource
from pipeline.fields import decoder_of
from pipeline.jobs import sizing
from pipeline.jobs.sizing import Asked, incidents_a_day, points_meant, reckon
from pipeline.jobs.sizing_measured import Line, Machine, Measured, Turned
from pipeline.jobs.sizing_records import MadeUp
from pipeline.jobs.sizing_report import report
from pipeline.jobs.sizing_turns import CLIENT, client_share_of, most_points_per_s, turn_of
from pipeline.kafka_settings import KafkaSettings
from pipeline.lanes import build_lane
from pipeline.protocols import TopicPartition
from tests.commands import configured, only_line, promote
from tests.streams import CPU, FEATURES, SERIES, features_detector, series_detector

NONE = Line(0.0, 0.0)
TURNS = (Turned(1, 0.002, 0.003), Turned(1_000, 0.004, 0.005), Turned(10_000, 0.04, 0.04))
STREAM = Measured(NONE, 0.0, NONE, NONE, NONE, 0.0, None, TURNS, 100.0)
"""A turn of at least 2 ms, and 3 ms after a rest; records of 100 bytes."""
PLACE = TopicPartition("metrics", 0)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; return (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["offkey", "--log-level", "error", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def settings_of(stream: StreamSettings, **changes: Any) -> StreamSettings:
    return StreamSettings.model_validate({**stream.model_dump(exclude_unset=True), **changes})


def test_a_line_goes_through_both_sizes_and_never_falls() -> None:
    line = Line.through((100, 200), (1_500.0, 2_500.0))
    assert (line.fixed, line.each, line.of(1_000)) == (500.0, 10.0, 10_500.0)
    assert Line.through((100, 200), (1_500.0, 1_400.0)).of(1_000) == 1_400.0
    assert Line(-50.0, 1.0).of(10) == 0.0


def test_between_two_polls_that_were_measured_a_turn_lies_between_theirs() -> None:
    assert STREAM.turn_s(0.5) == STREAM.turn_s(1) == 0.002
    assert STREAM.turn_s(5_500) == pytest.approx(0.022)
    assert STREAM.turn_s(20_000) == pytest.approx(0.08)
    assert STREAM.turn_s(1, 0.5) == pytest.approx(0.0025)


def test_records_that_come_seldom_have_a_turn_each() -> None:
    turn = turn_of([STREAM], 10.0, KafkaSettings())
    assert turn.seconds == pytest.approx(0.1)
    assert turn.points == pytest.approx(1.0)


def test_records_that_come_while_a_turn_works_wait_for_the_next_one() -> None:
    turn = turn_of([STREAM], 1_000.0, KafkaSettings())
    assert turn.rested < 0.2
    own_s = turn.cpu_s + CLIENT.wait_s
    assert turn.seconds == pytest.approx(own_s, rel=1e-3)
    assert turn.points == pytest.approx(1_000 * own_s, rel=1e-3)


def test_the_broker_gathers_until_there_is_enough_or_the_wait_is_over() -> None:
    enough = turn_of([STREAM], 5_000.0, KafkaSettings(fetch_min_bytes=50_000, fetch_max_wait=1.0))
    assert enough.points == pytest.approx(500)
    over = turn_of([STREAM], 100.0, KafkaSettings(fetch_min_bytes=50_000, fetch_max_wait=1.0))
    assert over.seconds == pytest.approx(1.0 + over.cpu_s + CLIENT.wait_s)
    assert over.cpu_s == pytest.approx(STREAM.turn_s(over.points, 1.0) + CLIENT.poll_s + CLIENT.rested_s)


def test_the_client_takes_less_the_fewer_turns_there_are() -> None:
    often, seldom = KafkaSettings(), KafkaSettings(fetch_min_bytes=50_000, fetch_max_wait=1.0)
    shares = [client_share_of(turn_of([STREAM], 100.0, kafka), kafka, 1.0) for kafka in (often, seldom)]
    assert shares[0] > 10 * shares[1] > 0


def test_more_than_a_core_takes_is_told() -> None:
    turn = turn_of([STREAM], 300_000.0, KafkaSettings())
    assert not turn.keeps_up
    assert turn.cpu_s / turn.seconds > 1
    assert turn_of([STREAM], 200_000.0, KafkaSettings()).keeps_up


def test_what_a_core_takes_at_most_is_shared_by_the_streams() -> None:
    """Each has as many points, whatever the size of the largest poll that was timed."""
    slow = replace(STREAM, turns=(Turned(1_000, 0.04, 0.04),))
    each_s = (0.04 + CLIENT.poll_s) / 10_000 + (0.04 + CLIENT.poll_s) / 1_000
    assert most_points_per_s([STREAM, slow], 1.0) == pytest.approx(2 / each_s)


@pytest.mark.parametrize(
    ("series", "processor", "rate"),
    [
        (1_000, "8.6% of one core: offkey 5.0%, the Kafka client 3.6%", "16.7 points a second; one worker"),
        (20_000_000, "more than one core; share it between processes", "333,000 points"),
    ],
)
def test_the_report_says_what_a_core_takes_and_whether_one_is_enough(
    tmp_path: Path, series: int, processor: str, rate: str
) -> None:
    settings, machine = load_settings(configured(tmp_path)), Machine(3e8, None, CLIENT.unpacking_s)
    asked, detectors = Asked(series, 60.0, ["machines"]), {"machines": series_detector()}
    said = report(reckon(settings, asked, detectors, {"machines": "v1"}, machine, {"machines": STREAM}))
    assert f"processor             {processor}" in said
    assert rate in said
    assert said.count("246,000 points a second at most") == 1, "three digits, once"


@pytest.mark.parametrize(
    ("alerts", "a_day"),
    [
        ({"budget": "1 per day"}, 1_000.0),
        ({"budget": "1 per week"}, 1_000 / 7),
        ({"budget": "1 per 10000 records"}, 1_000 * 1_440 / 10_000),
        # Halved four times, until a sixteenth of a thousand a day is no more than a hundred.
        ({"budget": "1 per day", "stream_budget": "100 per day"}, 1_000 / 16),
    ],
)
def test_false_incidents_are_those_of_the_budget(alerts: dict[str, Any], a_day: float) -> None:
    stream = settings_of(SERIES, alerts=alerts)
    found = incidents_a_day(stream, series_detector(), Asked(1_000, 60.0, ["machines"]))
    assert found == pytest.approx(a_day, rel=1e-3)


def test_no_more_false_incidents_are_expected_than_the_lowest_threshold_lets_through() -> None:
    judgement = series_detector().calibration.of(0)
    meant = points_meant(judgement, 1.0)
    assert meant > 5
    lowest, above = judgement.thresholds(["", ""], np.array([0.99 * meant, 1.02 * meant]))
    assert lowest == judgement.thresholds([""], np.array([1.0]))[0] < above
    stream = settings_of(SERIES, alerts={"budget": "1 per 2 records"})
    asked = Asked(1_000, 60.0, ["machines"])
    assert incidents_a_day(stream, series_detector(), asked) == pytest.approx(1_440_000 / meant, rel=1e-3)


def test_series_beyond_the_bound_raise_none_and_records_of_features_count_by_the_rate() -> None:
    asked = Asked(1_000, 60.0, ["machines"])
    bounded = settings_of(SERIES, max_series=100)
    assert incidents_a_day(bounded, series_detector(), asked) == pytest.approx(100, rel=1e-3)
    assert incidents_a_day(FEATURES, features_detector(), asked) == pytest.approx(1_440, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"series": ["host"]},
        {"series": ["where.rack", "host"], "time": None},
        {"features": ["load.cpu", "load.mem"], "time_unit": "s"},
        {"time_unit": "iso8601"},
        {"time_unit": "ns"},
        {"format": "arrow"},
        {"format": "arrow", "series": ["where.rack", "where.host"], "features": ["load.cpu", "mem"]},
    ],
)
def test_made_up_records_are_what_the_stream_decodes(changes: dict[str, Any]) -> None:
    stream = settings_of(SERIES, **changes)
    features = stream.features or []
    made, source = MadeUp(stream, features, 2_500.0), RehearsedSource(PLACE)
    assert source.prepare(made.payloads(3, 5, 25)) > 0
    batch, rejects = decoder_of(stream, features).decode(source.poll(0)[0])
    assert not rejects
    assert list(batch.series_of_rows) == [made.series_name(number) for number in range(5, 25)]
    assert set(batch.time_ms_N.tolist()) == {made.time_ms(3)}
    assert made.time_ms(3) - made.time_ms(1) == 5_000
    assert batch.values_NF.shape == (20, 2)
    assert np.unique(batch.values_NF).size > 20


def test_a_rehearsed_poll_is_what_was_prepared() -> None:
    source = RehearsedSource(PLACE)
    source.prepare([(b"a", b"1", 5), (None, b"2", 6)])
    source.prepare([(b"b", b"3", 7)])
    (first,), (second,) = source.poll(0), source.poll(0)
    told = [(at.offset, at.key, at.value, at.timestamp) for at in (*first.records, *second.records)]
    assert told == [(0, b"a", b"1", 5), (1, None, b"2", 6), (2, b"b", b"3", 7)]
    assert source.poll(0) == ()


def test_the_plan_of_a_champion(run: Run, tmp_path: Path) -> None:
    """No broker is there, and the checkpoint is as large as that of as many series."""
    path, series = configured(tmp_path), 300
    promote(path)
    before = sorted((tmp_path / "storage").rglob("*"))
    status, printed, _ = run(str(path), "--series", str(series), "--interval", "60", "--json")
    assert status == 0
    told = json.loads(printed)
    (stream,) = told["streams"]
    assert stream["model"] == "vanilla, version v1"
    assert told["gpu_bytes"] is None
    assert (stream["incidents_a_day"], stream["alerts_a_day"]) == (300, 600)
    assert 0 < told["client_share"] < told["cpu_share"] < 1
    assert told["base_bytes"] < told["memory_bytes"] < told["most_memory_bytes"]
    assert told["points_per_s"] == 5
    assert sorted((tmp_path / "storage").rglob("*")) == before

    detector = from_files(to_files(series_detector()))
    # What is strange to this model would leave incidents in the checkpoint.
    lane = build_lane(
        "machines", SERIES, detector, "v1", CPU, thresholds=lambda names, *_: np.full(len(names), 1e9)
    )
    made, source = MadeUp(SERIES, detector.spec.features, 60_000.0, name_width=6), RehearsedSource(PLACE)
    for point in range(40):
        source.prepare(made.payloads(point, 0, series))
        lane.pipeline.process(source.poll(0))
    held = sum(array.nbytes for array in lane.pipeline.snapshot(PLACE).values())
    assert told["checkpoint_bytes"] == pytest.approx(held, rel=0.05)


def test_the_plan_before_there_is_a_model(run: Run, tmp_path: Path) -> None:
    """A stream of each kind; storage is not made."""
    streams = {
        "machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"max_series": 100},
        "payments": FEATURES.model_dump(mode="json", exclude_unset=True),
    }
    kafka = {"bootstrap_servers": "127.0.0.1:1", "delivery": "exactly_once"}
    path = configured(tmp_path, streams=streams, kafka=kafka)
    status, printed, said = run(str(path), "--series", "1000", "--interval", "10")
    assert status == 0
    assert "stream machines: vanilla, trained on made-up records: there is no model yet" in printed
    assert "max_series is 100: of 1,000 series no more are held" in printed
    assert "records belong to no series" in printed
    assert "kafka.delivery is exactly_once: what its transactions take" in printed
    assert "GPU memory            none: no GPU is used" in printed
    assert "machines: there is no model yet; one of its kind learns made-up records" in said
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--series", "0", "--interval", "60"], "--series 0: how many there are, 1 or more"),
        (["--series", "5", "--interval", "0"], "--interval 0: seconds between two points of a series"),
        (["--series", "5", "--interval", "nan"], "--interval nan: seconds between two points of a series"),
        (["--series", "5", "--interval", "1e9"], "--interval 1e+09: seconds between two points of a series"),
        (["--series", "5", "--interval", "60", "--stream", "x"], "there is no stream 'x'; there are: machines"),
    ],
)
def test_numbers_that_say_nothing_are_refused(run: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    status, printed, found = run(str(configured(tmp_path)), *arguments)
    assert (status, printed) == (2, "")
    assert only_line(found).startswith(said)


def test_without_features_and_model_nothing_can_be_planned(run: Run, tmp_path: Path) -> None:
    path = configured(tmp_path, streams={"machines": {"topic": "metrics"}})
    status, _, said = run(str(path), "--series", "5", "--interval", "60")
    assert status == 2
    assert "stream machines names no features, and there is no model that knows them" in only_line(said)


def test_a_model_with_a_mistake_is_named(run: Run, tmp_path: Path) -> None:
    stream = {"topic": "metrics", "features": ["a"], "model": {"architecture": "vanilla", "hiden": 3}}
    path = configured(tmp_path, streams={"machines": stream})
    status, _, said = run(str(path), "--series", "5", "--interval", "60")
    assert status == 2
    assert "architecture vanilla has no option 'hiden'" in only_line(said)


def test_a_process_that_ends_without_an_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    """As one that the system ends for want of memory."""
    monkeypatch.setattr(sizing, "_measure_and_send", _ends)
    path = configured(tmp_path)
    promote(path)
    status, _, said = run(str(path), "--series", "5", "--interval", "60")
    assert status == 1
    assert "the process that measures ended without an answer (status 9)" in said


def _ends(*_: Any) -> None:
    import os

    os._exit(9)


def test_a_remark_on_what_is_taken_for_granted(tmp_path: Path) -> None:
    stream = replace(Asked(10, 60.0, []), streams=["a"])
    remarks = sizing._remarks(settings_of(SERIES, series_ttl="90s", format="arrow", series=["host"]), stream)
    assert [remark.partition(":")[0] for remark in remarks] == [
        "series_ttl is 90 s",
        "records are taken to hold 1,000 rows each, or one where their key names the series",
    ]
