"""Snapshots for tests: rows to write, everything that a reader finds, and storage that fails when it is told to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.arrays import FloatArray, IntArray
from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.snapshot_names import DAY_MS
from pipeline.errors import TransientError
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Gap, SnapshotRows, Snapshots

PLACE = TopicPartition("metrics", 0)
TOPIC_ID = "metrics#1"
FEATURES = ("cpu", "mem")
FIRST_DAY = 20_000
NAMES = ("a", "b/1", "ü")

Row = tuple[Any, ...]


def at_day(day: float) -> int:
    """Return a Kafka timestamp so many days after the first one of the tests."""
    return int((FIRST_DAY + day) * DAY_MS)


def rows(
    begin: int,
    end: int,
    days: Sequence[float] = (0,),
    *,
    place: TopicPartition = PLACE,
    topic_id: str = TOPIC_ID,
    features: tuple[str, ...] = FEATURES,
    series: bool = True,
) -> SnapshotRows:
    """Return a row of each offset, whose content follows from the offset, of these days in turn."""
    offset_N = np.arange(begin, end)
    day_N = np.array(days, np.float64)[offset_N % len(days)]
    return SnapshotRows(
        place,
        topic_id,
        features,
        offset_N,
        np.zeros(len(offset_N), np.int64),
        ((FIRST_DAY + day_N) * DAY_MS).astype(np.int64) + offset_N,
        1000 * offset_N,
        NAMES if series else None,
        offset_N % 3 if series else np.zeros(len(offset_N), np.int64),
        np.stack([np.sqrt(offset_N + number) for number in range(len(features))], axis=1),
        offset_N % 7 == 0,
    )


def rows_of(
    x_TSF: FloatArray,
    time_ms_T: IntArray,
    names: Sequence[str] | None,
    features: tuple[str, ...] = FEATURES,
    *,
    place: TopicPartition = PLACE,
    begin: int = 0,
) -> SnapshotRows:
    """Return a row of each point of each series, at these times, from an offset on."""
    points, series, _ = x_TSF.shape
    count, time_ms_N = points * series, np.repeat(time_ms_T, series)
    return SnapshotRows(
        place,
        TOPIC_ID,
        features,
        np.arange(begin, begin + count),
        np.zeros(count, np.int64),
        time_ms_N,
        time_ms_N,
        names,
        np.tile(np.arange(series), points),
        x_TSF.reshape(count, -1),
        np.zeros(count, np.bool_),
    )


def write(snapshots: Snapshots, begin: int, end: int, days: Sequence[float] = (0,), **what: Any) -> SnapshotRows:
    """Write the rows of a range as one unit."""
    made = rows(begin, end, days, **what)
    snapshots.write("machines", made, OffsetRange(begin, end), at_day(days[-1]))
    return made


def told(part: SnapshotRows) -> list[Row]:
    """Return rows as tuples that can be compared: bit for bit, as NaN cannot."""
    series = [""] * len(part) if part.series is None else [part.series[code] for code in part.code_N.tolist()]
    columns = (part.offset_N, part.row_N, part.kafka_ms_N, part.time_ms_N, part.late_N)
    values = [value.tobytes() for value in part.values_NF]
    return list(zip(*(column.tolist() for column in columns), series, values, strict=True))


@dataclass
class Found:
    """What a reader found."""

    rows: dict[TopicPartition, list[Row]] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)

    @property
    def offsets(self) -> list[int]:
        """Of the tests' one partition."""
        return [row[0] for row in self.rows.get(PLACE, [])]


def read(
    snapshots: Snapshots, from_ms: int = 0, to_ms: int = 2**62, features: Sequence[str] | None = None
) -> Found:
    found = Found()

    def gap(missing: Gap) -> None:
        found.gaps.append((missing.begin, missing.end))

    for part in snapshots.read("machines", from_ms, to_ms, gap, features):
        found.rows.setdefault(part.partition, []).extend(told(part))
    return found


class FailingStorage(MemoryStorage):
    """Does what it is asked for so many times, then nothing; what it did before stays."""

    def __init__(self) -> None:
        super().__init__()
        self.left: float = float("inf")
        self.got: list[str] = []
        """Names of the objects that were read."""

    def get(self, name: str) -> bytes | None:
        self._count()
        self.got.append(name)
        return super().get(name)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        self._count()
        return super().create(name, content)

    def list(self, folder: str) -> list[str]:
        self._count()
        return super().list(folder)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TransientError("storage is away")
