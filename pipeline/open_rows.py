"""What the recorder holds of a partition in memory: rows that no file has yet, and which series were seen when.

Legend: N rows.
"""

from collections.abc import Sequence

import numpy as np

from models.arrays import BoolArray, IntArray
from models.spec import ImageShape
from pipeline.protocols import OffsetRange, PartitionRecords, TopicPartition
from pipeline.snapshots import SnapshotRows, stacked
from pipeline.stages.decode import MAX_TIME_MS, Batch

_APART = 1 << 42
"""More than the times of two rows can differ by, in ms."""
assert _APART > MAX_TIME_MS + 1


class SeenSeries:
    """Names of the series that were seen, each with its newest event time."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._newest_ms = np.full(64, -1, np.int64)

    def __len__(self) -> int:
        return len(self._place)

    @property
    def names(self) -> Sequence[str]:
        return list(self._place)

    def learn(self, rows: SnapshotRows) -> None:
        """Take what a file tells, or a part of it; rows that belong to no series tell nothing."""
        if rows.series is not None:
            self.late(self._codes(rows.series)[rows.code_N], rows.time_ms_N)

    def codes(self, batch: Batch) -> IntArray:
        """Return the index in `names` of the series of each row; new ones are added."""
        code_N = self._codes(batch.series)
        return code_N if batch.code_N is None else code_N[batch.code_N]

    def _codes(self, names: Sequence[str]) -> IntArray:
        place = self._place
        try:
            codes = list(map(place.__getitem__, names))
        except KeyError:
            codes = [place.setdefault(name, len(place)) for name in names]
            if len(place) > len(self._newest_ms):
                more = max(len(place), 2 * len(self._newest_ms)) - len(self._newest_ms)
                self._newest_ms = np.append(self._newest_ms, np.full(more, -1, np.int64))
        return np.array(codes, np.int64)

    def late(self, code_N: IntArray, time_ms_N: IntArray) -> BoolArray:
        """Return which rows are not later than one before them of their series, and remember their times."""
        order = np.argsort(code_N, kind="stable")
        code, time_ms = code_N[order], time_ms_N[order]
        first = np.append(True, code[1:] != code[:-1])[: len(code)]
        # Series lie so far apart that one running maximum serves all of them.
        lift = (np.cumsum(first) - 1) * _APART
        seen = self._newest_ms[code] + lift
        running = np.maximum.accumulate(np.maximum(time_ms + lift, seen))
        before = np.where(first, seen, np.append(-1, running[:-1])[: len(code)])
        late_N = np.empty(len(code), np.bool_)
        late_N[order] = time_ms + lift <= before
        last = np.append(first[1:], True)[: len(code)]
        self._newest_ms[code[last]] = (running - lift)[last]
        return late_N


class OpenRows:
    """The rows from one offset on, until a file is made of them."""

    def __init__(
        self,
        partition: TopicPartition,
        topic_id: str,
        features: tuple[str, ...],
        begin: int,
        image: ImageShape | None = None,
    ) -> None:
        self.partition, self.topic_id, self._features, self._image = partition, topic_id, features, image
        self.begin = self.position = begin
        """First offset that no file covers, and the next one to read."""
        self.committed = begin
        """What the group has committed, as far as it is known here."""
        self.rows = self.size_bytes = 0
        self.since_s: float | None = None
        """When the first of them came; None: there are none."""
        self.newest_ms = -1
        """Kafka timestamp of the last record, rejected or not."""
        self._parts: list[SnapshotRows] = []

    @property
    def covered(self) -> OffsetRange:
        return OffsetRange(self.begin, self.position)

    def add(self, arrived: PartitionRecords, batch: Batch, seen: SeenSeries | None, now_s: float) -> None:
        """Take records that have been decoded; `seen` is None where they belong to no series."""
        code_N = np.zeros(len(batch), np.int64) if seen is None else seen.codes(batch)
        late_N = np.zeros(len(batch), np.bool_) if seen is None else seen.late(code_N, batch.time_ms_N)
        part = SnapshotRows(
            self.partition,
            self.topic_id,
            self._features,
            offset_N=batch.offset_N,
            row_N=batch.place_in_record_N,
            kafka_ms_N=batch.published_ms_N,
            time_ms_N=batch.time_ms_N,
            series=None if seen is None else (),
            code_N=code_N.astype(np.int32),
            # Of its own: the decoder's array may be a part of a wider one.
            values_NF=np.ascontiguousarray(batch.values_NF),
            late_N=late_N,
            image=self._image,
        )
        self._parts.append(part)
        self.rows += len(part)
        self.size_bytes += part.size_bytes
        self.position = arrived.next_offset
        self.newest_ms = arrived.records[-1].timestamp
        self.since_s = now_s if self.since_s is None else self.since_s

    def snapshot(self, seen: SeenSeries | None) -> SnapshotRows:
        """Return all rows."""
        return stacked(self._parts, None if seen is None else seen.names)

    def close(self) -> None:
        """Forget the rows, which a file has now."""
        self.begin, self.rows, self.size_bytes, self.since_s = self.position, 0, 0, None
        self._parts.clear()
