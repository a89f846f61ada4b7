import json
import sys
import zipfile
from importlib.resources import files
from subprocess import run

import msgspec
import numpy as np
import pytest

from pipeline.demo import replay
from pipeline.demo.data import STREAMS, load, load_labels


@pytest.mark.parametrize("stream", STREAMS)
def test_labels_point_into_the_replayed_part(stream: str) -> None:
    labels = load_labels(stream)
    recorded = {one.name: one for one in load(stream)}
    assert labels.keys() == recorded.keys()
    for name, spans in labels.items():
        assert all(recorded[name].train_rows <= first <= last < len(recorded[name]) for first, last in spans)


def test_there_is_enough_to_watch() -> None:
    replayed = sum(len(one) - one.train_rows for stream in STREAMS for one in load(stream))
    assert replayed >= 100_000
    assert len(load("metrics")) >= 20


@pytest.mark.parametrize("stream", STREAMS)
def test_values_are_those_of_the_source_to_the_last_bit(stream: str) -> None:
    with (files("pipeline.demo") / "data" / f"{stream}.npz").open("rb") as file, np.load(file) as arrays:
        for one in load(stream):
            shipped = arrays[f"{one.name}/values"].T
            assert np.array_equal(one.values_NF.astype(np.float32), shipped)
            assert np.isfinite(one.values_NF).all()


def test_series_files_hold_no_labels() -> None:
    for stream in STREAMS:
        with zipfile.ZipFile(str(files("pipeline.demo") / "data" / f"{stream}.npz")) as archive:
            kinds = {name.rsplit("/", 1)[1] for name in archive.namelist()}
        assert kinds <= {"values.npy", "time_step_ms.npy", "train_rows.npy"}


def test_a_record_holds_time_and_features_and_nothing_else() -> None:
    for stream in STREAMS:
        one = load(stream)[0]
        message = replay.message_of(one, one.train_rows)
        body = msgspec.json.decode(message.value or b"")
        beside = {"machines": {"ts"}, "metrics": {"ts", "metric"}, "requests": set()}[stream]
        assert body.keys() == {*one.features, *beside}
        assert np.float32(body[one.features[0]]) == np.float32(one.values_NF[one.train_rows, 0])
        assert message.key == (one.name.encode() if one.time_ms_N is not None else None)


def test_replay_keeps_each_series_order_and_follows_event_time_over_series() -> None:
    series = [one for one in load("metrics") if one.name.startswith("exchange")]
    messages = list(replay.replayed({"metrics": series}))
    assert len(messages) == sum(len(one) - one.train_rows for one in series)
    times: dict[bytes | None, list[int]] = {one.name.encode(): [] for one in series}
    newest = backwards = 0
    for message in messages:
        ts = json.loads(message.value or b"")["ts"]
        times[message.key].append(ts)
        backwards += ts < newest
        newest = max(newest, ts)
    late = 0
    for one in series:
        assert one.time_ms_N is not None
        recorded = one.time_ms_N[one.train_rows :].tolist()
        assert times[one.name.encode()] == recorded
        late += int((np.diff(recorded) < 0).sum())
    assert backwards <= late


def test_streams_share_the_way_evenly() -> None:
    streams = {"metrics": load("metrics")[:2], "requests": load("requests")}
    topics = [message.topic for _, message in zip(range(5000), replay.training(streams), strict=False)]
    requests, metrics = (sum(one.train_rows for one in streams[name]) for name in ("requests", "metrics"))
    expected = 5000 * metrics / (metrics + requests)
    assert abs(topics.count("demo.metrics") - expected) < 3


def test_the_demo_itself_does_not_import_torch() -> None:
    program = "import sys, pipeline.demo.run; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
