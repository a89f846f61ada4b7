"""Columns to learn from: of each series, as a worker would accept it, from a topic or from snapshots alike."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import StreamSettings
from pipeline.errors import SnapshotError
from pipeline.fields import decoder_of
from pipeline.history import Read, read_columns
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.train import read_snapshots
from tests.recording import FEATURES, HOLDING, Bench, finish, payloads
from tests.records import NOW_MS, arrived, record

UNORDERED = StreamSettings.model_validate(
    {"topic": "metrics", "kind": "features", "features": list(FEATURES), "model": {"architecture": "vanilla"}}
    | {"alerts": {"budget": "1 per 1000 records"}}
)


def stream(**changes: Any) -> StreamSettings:
    return StreamSettings.model_validate({"topic": "metrics", "time": "ts", **changes})


def of_topic(bench: Bench) -> Read:
    history = [
        PartitionRecords(TopicPartition("metrics", number), records)
        for number, records in enumerate(bench.broker.topics["metrics"])
    ]
    return read_columns(history, decoder_of(bench.settings, FEATURES))


@pytest.mark.parametrize("settings", [HOLDING, UNORDERED])
def test_snapshots_teach_what_the_topic_does(settings: StreamSettings) -> None:
    bench = Bench(settings=settings)
    bench.fill(payloads(600))
    finish(bench.recorder())
    names, read = read_snapshots("machines", settings, bench.snapshots, 0, 2**62)
    expected = of_topic(bench)
    assert tuple(names) == FEATURES
    assert (read.records, read.late) == (expected.records - expected.rejected, expected.late)
    for partition, (first, end) in expected.offsets.items():
        # Of what was rejected no row tells, and the first record was.
        assert first < read.offsets[partition][0] < read.offsets[partition][1] == end
    assert read.late > 0 or settings is UNORDERED
    assert read.columns.keys() == expected.columns.keys()
    for series, (time_ms_T, x_TF) in expected.columns.items():
        np.testing.assert_array_equal(read.columns[series][0], time_ms_T)
        np.testing.assert_array_equal(read.columns[series][1], x_TF)


def test_a_range_of_time_without_rows_is_told() -> None:
    bench = Bench()
    bench.fill(payloads(100))
    finish(bench.recorder())
    with pytest.raises(SnapshotError, match="machines: its snapshots hold 0 rows of that time"):
        read_snapshots("machines", HOLDING, bench.snapshots, 0, 1)


def test_features_that_the_files_do_not_have_are_refused() -> None:
    bench = Bench()
    bench.fill(payloads(100))
    finish(bench.recorder())
    other = HOLDING.model_copy(update={"features": ["cpu", "disk"]})
    with pytest.raises(SnapshotError, match="disk"):
        read_snapshots("machines", other, bench.snapshots, 0, 2**62)


def test_records_of_another_kind_are_refused() -> None:
    bench = Bench()
    bench.fill(payloads())
    finish(bench.recorder())
    other = HOLDING.model_validate({"topic": "metrics", "kind": "features", "features": list(FEATURES)})
    with pytest.raises(SnapshotError, match="its snapshots hold series, and records of no series are asked for"):
        read_snapshots("machines", other, bench.snapshots, 0, 2**62)


def test_columns_are_those_of_each_series_in_order() -> None:
    rows = [
        ("b", 3, 1.0),
        ("a", 1, 2.0),
        ("b", 2, 9.0),
        ("b", 4, 3.0),
        ("a", 1, 9.0),
        ("a", 5, None),
        ("a", 6, 4.0),
    ]
    raw = [record({"ts": NOW_MS + time, "v": value}, key=name.encode()) for name, time, value in rows]
    raw.append(record(b"nonsense"))
    settings = stream(features=["v"], missing="hold")
    read = read_columns([arrived(raw[:4]), arrived(raw[4:])], decoder_of(settings, ["v"]))
    assert (read.records, read.rejected, read.late) == (8, 1, 2)
    columns = read.columns
    assert {name: x_TF[:, 0].tolist() for name, (_, x_TF) in columns.items()} == {"a": [2.0, 4.0], "b": [1.0, 3.0]}
    assert (columns["b"][0] - NOW_MS).tolist() == [3, 4]


def test_a_series_without_a_name_has_its_late_records_left_out_too() -> None:
    raw = [record({"ts": NOW_MS + time, "v": time}, key=b"") for time in (1, 3, 2, 3, 4)]
    read = read_columns([arrived(raw)], decoder_of(stream(features=["v"]), ["v"]))
    assert read.late == 2
    assert (read.columns[""][0] - NOW_MS).tolist() == [1, 3, 4]


def test_features_are_never_late() -> None:
    settings = StreamSettings.model_validate({"topic": "t", "kind": "features", "time": "ts", "features": ["v"]})
    raw = [record({"ts": NOW_MS + time, "v": time}) for time in (1, 3, 2, 3, 4)]
    read = read_columns([arrived(raw)], decoder_of(settings, ["v"]))
    assert read.late == 0
    assert (read.columns[""][0] - NOW_MS).tolist() == [1, 3, 2, 3, 4]


def test_a_poll_of_nothing_usable_is_fine() -> None:
    read = read_columns([arrived([record(b"x")])], decoder_of(stream(features=["v"]), ["v"]))
    assert (dict(read.columns), read.records, read.rejected) == ({}, 1, 1)
