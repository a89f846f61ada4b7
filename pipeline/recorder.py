"""The recorder: poll -> decode -> rows in memory -> a closed file -> commit; a consumer group of its own.

What holds after each step, and so what a crash right after it costs:

1. Records are polled and decoded, as the worker does it: they are read again.
2. A file is created with the rows of a range of offsets, whole or not at all: the next start goes on behind it.
3. The end of the range is committed: nothing is read again.

Every accepted row is kept, late ones flagged; those that the decoder rejects are counted, and dead-lettered by the
worker. The range of a file covers their offsets too.

A file is closed when it has many rows or bytes, or is old, or when all open rows take much memory; in the middle of
a poll where it unpacks to much. Storage that does not take it stops nothing until memory is full: then the rest of
the poll is left, to be polled again, and the partitions are paused, which keeps their group waiting for nobody; the
file is tried again as long as it takes. What the topic holds is safe meanwhile.

Where a partition begins, and what becomes of its rows in a rebalance, is told in `pipeline.recorded_partitions`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import metrics
from pipeline.errors import AssignmentLost, ConfigError, TransientError
from pipeline.logs import about
from pipeline.open_rows import OpenRows
from pipeline.patience import Patience
from pipeline.protocols import PartitionRecords, Source, TopicPartition
from pipeline.recorded_partitions import RecordedPartitions, RecordedStream
from pipeline.snapshots import Limits, Snapshots
from pipeline.stopping import Stop

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 30.0
"""Between two tries of storage that does not take a file."""


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """When files are closed, and how patient the recorder is."""

    file_rows: int = 500_000
    file_bytes: int = 32 << 20
    """Of a file's rows in memory; packed it is a third of that or less."""
    file_age_s: float = 300.0
    open_bytes: int = 96 << 20
    """All open rows together take so much at most, and what is decoded at once more."""
    tidy_every_s: float = 600.0
    poll_timeout_s: float = 0.5
    retry_deadline_s: float = 60.0
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """Of each stream."""


@dataclass
class Recorder:
    """Records streams over one source. Everything happens on the thread that calls `run`."""

    streams: Sequence[RecordedStream]
    source: Source
    snapshots: Snapshots
    settings: RecorderOptions
    now_ms: Callable[[], int]
    """The time of day, which only says what is too old to keep."""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._stream_of = {stream.topic: stream for stream in self.streams}
        self.partitions = RecordedPartitions(self._stream_of, self.source, self.snapshots)
        self._tidy_due_s = self.clock() + self.settings.tidy_every_s
        self._untidy: list[str] = []
        self._stop = Stop()
        self._has_written = False
        self._storage_trouble = ""
        self._storage_due_s = 0.0
        self._storage_wait_s = _FIRST_WAIT_S
        self._paused: set[TopicPartition] = set()
        self.turned_s: float | None = None
        """When the loop last came round, by `clock`; None before its first turn."""
        self.joined = False
        """Whether the group counted this recorder in when its assignment was last followed."""
        self._trouble = ""

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def trouble(self) -> str:
        """What makes it try again just now."""
        return self._trouble or self._storage_trouble

    def facts(self) -> dict[str, object]:
        """Return what the probes tell beside the verdict; may be asked on another thread."""
        return {
            "streams": [stream.name for stream in self.streams],
            "partitions_assigned": len(self.partitions.assigned),
            "partitions_read": len(self.partitions.open.copy()),
        }

    def missing(self) -> Iterator[str]:
        """Yield what keeps partitions from being read; may be asked on another thread."""
        read = self.partitions.open.copy()
        for partition in sorted(self.partitions.assigned):
            if partition not in read:
                yield f"{partition}: it is not taken over yet"

    def run(self, stop: Stop) -> None:
        """Record until `stop` is set, then close all files and commit, within the stop's budget.

        Raises:
            TransientError: the broker stayed away for longer than `retry_deadline_s`, or storage at a take-over.
            ConfigError: a topic, a right or an offset is missing.
        """
        patience = Patience(self.settings.retry_deadline_s, self.clock)
        self._stop = stop
        stop.begun = True
        while not stop.is_set():
            self.turned_s = self.clock()
            try:
                self.step()
                self._trouble = ""
                patience.renew()
            except TransientError as error:
                self._trouble = str(error)
                patience.wait(error, stop)
        try:
            self.close_files()
        except TransientError as error:
            logger.warning("stopping: %s; %s", error, self.unfinished())
            return
        if self._storage_trouble:
            logger.warning("stopping: %s", self.unfinished())

    def unfinished(self) -> str:
        """Say what an end at once leaves undone; may be asked on another thread."""
        open_rows = sum(rows.rows for rows in self.partitions.open.copy().values())
        return f"{open_rows:,} rows are in no file yet; nothing is lost, the next start reads them again"

    def step(self) -> int:
        """Take one poll into memory, close the files that are due, and commit; return how many records it held.

        Raises:
            TransientError: the broker failed, or storage at a take-over; the next step goes on.
        """
        joined = self.source.joined()
        try:
            self.partitions.follow_assignment()
            self.joined = joined
        except AssignmentLost:
            # Only a poll joins the group again.
            self.partitions.forget(self.partitions.assigned)
            self.source.poll(0)
            raise
        self._paused &= self.partitions.open.keys()
        with metrics.measure("poll"):
            polled = self.source.poll(self.settings.poll_timeout_s)
        try:
            held = self._held()
            for records in polled:
                held = self._take(records, held)
        finally:
            self._read_again(polled)
        self._close(self._due())
        self._commit()
        self._tidy()
        self._report()
        return sum(len(records.records) for records in polled)

    def close_files(self) -> None:
        """Close a file of every partition that has moved, and commit."""
        self._storage_due_s = self.clock()
        self._close([rows for rows in self.partitions.open.values() if rows.position > rows.begin])
        self._commit()
        self._report()

    def _take(self, records: PartitionRecords, held: int) -> int:
        """Take records part by part, as long as there is room: a small poll may unpack to very much.

        Args:
            held: bytes of all open rows; returns what they are now.
        """
        stream, settings = self._stream_of[records.partition.topic], self.settings
        for (part,) in stream.decoder.split([records]):
            rows = self.partitions.open.get(records.partition)
            if held > settings.open_bytes or (rows is not None and rows.size_bytes >= settings.file_bytes):
                self._make_files(self._due())
                held, rows = self._held(), self.partitions.open.get(records.partition)
            if rows is None or held > settings.open_bytes:
                break
            with metrics.measure("decode"):
                batch, rejects = stream.decoder.decode(part)
                held -= rows.size_bytes
                rows.add(part, batch, self.partitions.seen_of(part.partition), self.clock())
                held += rows.size_bytes
            for reason, count in Counter(reject.reason for reject in rejects).items():
                metrics.SNAPSHOT_REJECTED.labels(stream.name, reason).inc(count)
            metrics.RECORDS.labels(stream.name).inc(len(part.records))
        return held

    def _read_again(self, polled: Sequence[PartitionRecords]) -> None:
        """Have come again what was polled and not taken, for it had no room."""
        for records in polled:
            rows = self.partitions.open.get(records.partition)
            if rows is not None and rows.position < records.next_offset:
                self.source.start(records.partition, rows.position)

    def _held(self) -> int:
        return sum(rows.size_bytes for rows in self.partitions.open.values())

    def _due(self) -> list[OpenRows]:
        """Return what a file is to be made of now."""
        now_s, settings = self.clock(), self.settings
        moved = [rows for rows in self.partitions.open.values() if rows.position > rows.begin]
        due = [rows for rows in moved if self._is_due(rows, now_s)]
        held = sum(rows.size_bytes for rows in moved)
        for rows in sorted(moved, key=lambda rows: rows.size_bytes, reverse=True):
            if held <= settings.open_bytes:
                break
            if rows not in due:
                due.append(rows)
            held -= rows.size_bytes
        return due

    def _is_due(self, rows: OpenRows, now_s: float) -> bool:
        assert rows.since_s is not None, "rows have come at some time"
        if rows.partition in self.partitions.overtaken:
            return True
        is_large = rows.rows >= self.settings.file_rows or rows.size_bytes >= self.settings.file_bytes
        return is_large or now_s - rows.since_s >= self.settings.file_age_s

    def _close(self, due: Sequence[OpenRows]) -> None:
        """Make files, and read on or not."""
        self._make_files(due)
        self._hold_back()

    def _make_files(self, due: Sequence[OpenRows]) -> None:
        """Make files; what storage does not take now is kept and tried again."""
        if due and self.clock() >= self._storage_due_s:
            self.partitions.forget_remade([rows.partition for rows in due])
            for rows in due:
                if self.partitions.open.get(rows.partition) is not rows:
                    continue
                try:
                    with metrics.measure("file"):
                        self._write(rows)
                except (TransientError, ConfigError) as error:
                    if isinstance(error, ConfigError) and not self._has_written:
                        raise
                    self._note_failure(rows, error)
                    break
                self._note_success()

    def _write(self, rows: OpenRows) -> None:
        stream, seen = self._stream_of[rows.partition.topic], self.partitions.seen_of(rows.partition)
        size = self.snapshots.write(stream.name, rows.snapshot(seen), rows.covered, rows.newest_ms)
        metrics.SNAPSHOT_ROWS.labels(stream.name).inc(rows.rows)
        metrics.SNAPSHOT_BYTES.labels(stream.name).inc(size)
        metrics.SNAPSHOT_FILES.labels(stream.name).inc()
        rows.close()
        self.partitions.bound_seen(rows.partition)
        if rows.partition in self.partitions.overtaken:
            self.partitions.forget([rows.partition])

    def _note_failure(self, rows: OpenRows, error: Exception) -> None:
        stream = self._stream_of[rows.partition.topic]
        metrics.SNAPSHOT_WRITES_FAILED.labels(stream.name).inc()
        if not self._storage_trouble:
            logger.error(
                "no file: %s; it is tried again, and nothing is lost while the topic holds it",
                error,
                extra=about(rows.partition, stream=stream.name, offset=rows.begin),
            )
        self._storage_trouble = str(error)
        self._storage_due_s = self.clock() + self._storage_wait_s
        self._storage_wait_s = min(2 * self._storage_wait_s, _LONGEST_WAIT_S)

    def _note_success(self) -> None:
        if self._storage_trouble:
            logger.info("storage takes files again")
        self._has_written, self._storage_trouble, self._storage_wait_s = True, "", _FIRST_WAIT_S

    def _hold_back(self) -> None:
        """Pause all partitions while memory is full, and have them come again when it is not."""
        open_rows = self.partitions.open
        if self._held() > self.settings.open_bytes:
            # Those that are paused too: a rebalance may have started them again.
            for partition in open_rows:
                self.source.pause(partition)
            self._paused.update(open_rows)
        else:
            for partition in self._paused & open_rows.keys():
                self.source.start(partition, open_rows[partition].position)
            self._paused.clear()

    def _commit(self) -> None:
        ends = {place: rows.begin for place, rows in self.partitions.open.items() if rows.begin != rows.committed}
        if not ends:
            return
        try:
            with metrics.measure("commit"):
                self.source.commit(ends)
        except AssignmentLost:
            self.partitions.forget(ends)
            raise
        for partition, end in ends.items():
            self.partitions.open[partition].committed = end

    def _tidy(self) -> None:
        """Take one step of keeping storage within its limits, when it is time."""
        if self.clock() >= self._tidy_due_s:
            self._untidy = [stream.name for stream in self.streams]
            self._tidy_due_s = self.clock() + self.settings.tidy_every_s
        if not self._untidy:
            return
        name = self._untidy[0]
        try:
            with metrics.measure("tidy"):
                limits = self.settings.limits.get(name, Limits())
                done = self.snapshots.tidy(name, self.now_ms(), limits, self.partitions.open.__contains__)
        except (TransientError, ConfigError) as error:
            metrics.SNAPSHOT_WRITES_FAILED.labels(name).inc()
            said = about(stream=name)
            logger.warning("stream %s: old snapshots are left as they are: %s", name, error, extra=said)
            self._untidy.clear()
            return
        metrics.SNAPSHOT_FILES_HELD.labels(name).set(done.files)
        metrics.SNAPSHOT_HELD_BYTES.labels(name).set(done.stored_bytes)
        if not done.more:
            self._untidy.pop(0)

    def _report(self) -> None:
        lag = self.source.lag()
        for stream in self.streams:
            mine = [rows for place, rows in self.partitions.open.items() if place.topic == stream.topic]
            metrics.LAG_RECORDS.labels(stream.name).set(sum(n for at, n in lag.items() if at.topic == stream.topic))
            metrics.PARTITIONS_ASSIGNED.labels(stream.name).set(len(mine))
            metrics.SNAPSHOT_ROWS_OPEN.labels(stream.name).set(sum(rows.rows for rows in mine))
