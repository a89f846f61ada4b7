"""A recorder in memory: a broker with the streams' topics, storage, recorders on them, and what readers should
find."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryBroker, MemorySource
from pipeline.connectors.snapshot_names import DAY_MS
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.fields import decoder_of
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.recorded_partitions import RecordedStream
from pipeline.recorder import Recorder, RecorderOptions
from pipeline.snapshots import Gap, Limits
from pipeline.stages import tables
from tests.arrows import arrow_of
from tests.snapshots import FailingStorage, Row, told
from tests.streams import BEGIN_MS, SERIES, Payload, series_payloads

FEATURES = ("cpu", "mem")
HOLDING = SERIES.model_copy(update={"missing": "hold", "series": ["host"]})
DAYS = 3
PLACE = TopicPartition("metrics", 0)
MUCH: dict[str, Any] = {"max_poll_records": 10**6, "file_rows": 10**6, "open_bytes": 600}
"""Of a recorder: a poll holds all there is, of which memory has room for a few parts."""


def payloads(count: int = 300, seed: int = 5) -> list[Payload]:
    """Return records of five hosts, some late, some without a feature, and some that no decoder takes."""
    random = np.random.default_rng(seed)
    made: list[Payload] = []
    for number in range(count):
        # Some are of the very time of the one before them.
        time_ms = BEGIN_MS + 1000 * (number // 6) - (40_000 if random.random() < 0.1 else 0)
        row: dict[str, Any] = {"host": f"h{random.integers(5)}", "ts": time_ms, "cpu": random.random(), "mem": 0.1}
        if random.random() < 0.1:
            row["mem"] = None
        made.append((None, b"no" if random.random() < 0.1 else json.dumps(row).encode()))
    return made


@dataclass
class Bench:
    """Everything outside of recorders, which come and go."""

    partitions: int = 2
    settings: StreamSettings = HOLDING
    start: str = "earliest"
    options: RecorderOptions = field(
        default_factory=lambda: RecorderOptions(file_rows=40, poll_timeout_s=0, tidy_every_s=1e9)
    )
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    storage: FailingStorage = field(default_factory=FailingStorage)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.broker.create_topic("metrics", self.partitions)
        self.snapshots = StoredSnapshots(self.storage)

    def fill(self, made: Sequence[Payload], days: int = DAYS) -> None:
        """Append records in turn to the partitions; they come in on so many days."""
        for number, (key, value) in enumerate(made):
            at_ms = BEGIN_MS + days * DAY_MS * number // len(made)
            self.broker.append("metrics", value, key=key, partition=number % self.partitions, timestamp=at_ms)

    def recorder(
        self, wrap: Callable[[Any], Any] = lambda part: part, *, max_poll_records: int = 23, **options: Any
    ) -> Recorder:
        """Return a new recorder, in a process of its own as it were; `wrap` may go around what it talks to."""
        decoder = decoder_of(self.settings, FEATURES)
        stream = RecordedStream("machines", "metrics", decoder, FEATURES, self.start)
        return Recorder(
            [stream],
            wrap(MemorySource(self.broker, ["metrics"], max_poll_records)),
            StoredSnapshots(wrap(self.storage)),
            replace(self.options, **options),
            lambda: BEGIN_MS + DAYS * DAY_MS,
            lambda: self.now_s,
        )

    def keep(self, limits: Limits) -> None:
        self.options = replace(self.options, tidy_every_s=0, limits={"machines": limits})

    def expected(self) -> dict[TopicPartition, list[Row]]:
        """Return what a reader should find of all that the topic ever held, by the decoder and one rule."""
        decoder = decoder_of(self.settings, FEATURES)
        found: dict[TopicPartition, list[Row]] = {}
        for number, records in enumerate(self.broker.topics["metrics"]):
            place, newest = TopicPartition("metrics", number), {}  # type: tuple[TopicPartition, dict[str, int]]
            if not records:
                continue
            batch, _ = decoder.decode(PartitionRecords(place, records))
            for row, name in enumerate(batch.series_of_rows):
                time_ms = int(batch.time_ms_N[row])
                late = time_ms <= newest.get(name, -1)
                newest[name] = max(time_ms, newest.get(name, -1))
                at = (int(batch.offset_N[row]), int(batch.place_in_record_N[row]), int(batch.published_ms_N[row]))
                # Nothing tells one NaN from another.
                values = np.where(np.isnan(batch.values_NF[row]), np.nan, batch.values_NF[row])
                found.setdefault(place, []).append((*at, time_ms, late, name, values.tobytes()))
        return found

    def found(self, gaps: Callable[[Gap], None] | None = None) -> dict[TopicPartition, list[Row]]:
        """Return what a reader finds; a gap is an error unless somebody wants to know."""

        def unexpected(gap: Gap) -> None:
            raise AssertionError(str(gap))

        found: dict[TopicPartition, list[Row]] = {}
        for rows in self.snapshots.read("machines", 0, 2**62, gaps or unexpected, FEATURES):
            found.setdefault(rows.partition, []).extend(told(rows))
        return found


def packed_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench whose polls unpack to many parts."""
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 7)
    bench = Bench(settings=SERIES.model_copy(update={"format": "arrow", "series": ["host"]}))
    bench.fill(arrow_of(series_payloads(60), cuts=range(0, 240, 7)), days=1)
    return bench


def finish(recorder: Recorder) -> None:
    """Step until nothing is left, and close all files."""
    idle = 0
    while idle < 3:
        idle = idle + 1 if recorder.step() == 0 else 0
    recorder.close_files()


def unflagged(rows: dict[TopicPartition, list[Row]]) -> dict[TopicPartition, list[Row]]:
    """Return rows without whether they are late, which a restart may not know."""
    return {place: [row[:4] + row[5:] for row in each] for place, each in rows.items()}


def counted(name: str, **labels: str) -> float:
    """Return a counter of the stream."""
    return REGISTRY.get_sample_value(f"offkey_{name}_total", {"stream": "machines", **labels}) or 0.0


def files(bench: Bench) -> list[str]:
    """Return the names of all snapshot files."""
    return [name for name in bench.storage.objects if name.endswith(".parquet")]
