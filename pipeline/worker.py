"""The worker: poll -> stages -> publish -> commit, and state that follows the committed offsets.

What holds after each step, and so what a crash right after it costs:

1. Records are polled and scored: nothing has left the worker. They are read again.
2. Alerts and dead letters are published and every one is confirmed: they are read again, and the same ids are
   published a second time.
3. The next offsets are committed: nothing is repeated.
4. Now and then the state is checkpointed, never past the commit: a restart loads the newest checkpoint at or
   below the committed offset and replays the records between the two without publishing.

A partition without a committed offset starts where the stream's `start` says; its empty state is checkpointed
and that offset committed before its first record is read, so there is always a checkpoint to come back to.
After any failure to publish or commit, the state of the partitions concerned is thrown away and restored the
same way.
"""

import gc
import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline import metrics
from pipeline.errors import AssignmentLost, ConfigError, RecordError, TransientError
from pipeline.protocols import (
    Checkpoint,
    Checkpoints,
    OffsetRange,
    PartitionRecords,
    Publisher,
    Source,
    TopicPartition,
)
from pipeline.stages import alerts, dead_letters
from pipeline.stages.decode import Reject
from pipeline.stream import Outcome, StreamPipeline

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One stream as the worker sees it."""

    name: str
    topic: str
    pipeline: StreamPipeline
    model_version: str
    start: str
    """Where a partition without a usable committed offset begins: earliest, latest or fail."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    alerts_topic: str
    dead_letters_topic: str
    poll_timeout_s: float = 0.5
    delivery_timeout_s: float = 30.0
    checkpoint_every_s: float = 10.0
    retry_deadline_s: float = 60.0
    max_rejects_in_a_row: int = 10_000


@dataclass(slots=True)
class _Progress:
    """How far one assigned partition has come."""

    next_offset: int
    """Offset that the state in memory stands before."""
    publish_from: int
    """Alerts and dead letters of earlier offsets were published before the restart."""
    checkpointed: int
    topic_id: str
    rejects_in_a_row: int = 0


@dataclass
class Worker:
    """Runs the streams' stages over one source. Everything happens on the thread that calls `run`."""

    lanes: Sequence[Lane]
    source: Source
    publisher: Publisher
    checkpoints: Checkpoints
    settings: WorkerOptions
    clock: Callable[[], float] = time.monotonic
    _assigned: frozenset[TopicPartition] = frozenset()
    _progress: dict[TopicPartition, _Progress] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lane_of = {lane.topic: lane for lane in self.lanes}
        self._checkpoint_due_s = self.clock() + self.settings.checkpoint_every_s

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then checkpoint.

        Raises:
            TransientError: the outside world stayed away for longer than `retry_deadline_s`.
            RecordError: a record cannot be kept safe, or too many in a row were rejected.
            ConfigError: a topic, a right or an offset is missing.
        """
        failing_since_s: float | None = None
        backoff_s = _FIRST_BACKOFF_S
        while not stop.is_set():
            try:
                self.step()
                failing_since_s, backoff_s = None, _FIRST_BACKOFF_S
            except TransientError as error:
                now_s = self.clock()
                failing_since_s = now_s if failing_since_s is None else failing_since_s
                if now_s - failing_since_s > self.settings.retry_deadline_s:
                    raise
                logger.warning("trying again in %.1f s: %s", backoff_s, error)
                stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
        self.checkpoint()

    def step(self) -> int:
        """Take one poll from records to committed offsets; return how many records it held.

        Raises:
            TransientError: something outside failed; the next step starts from the committed offsets.
        """
        try:
            self._follow_assignment()
        except AssignmentLost:
            # Only a poll joins the group again; what it brings is read anew, for all state is forgotten.
            self._forget(self._assigned)
            self.source.poll(0)
            raise
        with _measure("poll"):
            polled = self.source.poll(self.settings.poll_timeout_s)
        polled = [records for records in polled if records.partition in self._progress]
        if polled:
            try:
                outcomes = self._score(polled)
                self._publish(outcomes)
                self._commit(polled)
            except TransientError:
                self._forget([records.partition for records in polled])
                raise
            self._count(polled, outcomes)
        if self.clock() >= self._checkpoint_due_s:
            self.checkpoint()
        self._report()
        return sum(len(records.records) for records in polled)

    def checkpoint(self) -> None:
        """Write the state of every partition that has moved since its last checkpoint.

        State of a topic that was made anew under our feet is thrown away instead.
        """
        with _measure("checkpoint"):
            ids = {topic: self.source.topic_id(topic) for topic in {place.topic for place in self._progress}}
            self._forget([place for place, at in self._progress.items() if at.topic_id != ids[place.topic]])
            for partition, progress in self._progress.items():
                if progress.checkpointed < progress.next_offset and progress.next_offset >= progress.publish_from:
                    self._write_checkpoint(partition, progress)
        self._checkpoint_due_s = self.clock() + self.settings.checkpoint_every_s

    def _follow_assignment(self) -> None:
        change = self.source.assignment()
        self._assigned = (self._assigned - change.lost) | change.gained
        self._forget(change.lost)
        try:
            for partition in sorted(change.gained & self._progress.keys()):
                self._resume(partition)
        except TransientError:
            # They are told as gained only once: without state, the next step adopts them.
            self._forget(change.gained)
            raise
        for partition in sorted(self._assigned - self._progress.keys()):
            self._adopt(partition)

    def _resume(self, partition: TopicPartition) -> None:
        """Keep the state of a partition that came back at once, if nobody else worked on it meanwhile."""
        next_offset, held = self._progress[partition].next_offset, self.source.offsets(partition)
        if self.source.committed(partition) == next_offset and held.begin <= next_offset <= held.end:
            self.source.start(partition, next_offset)
        else:
            self._forget([partition])

    def _adopt(self, partition: TopicPartition) -> None:
        """Restore a partition's state, or begin a new one, and let its records come."""
        lane = self._lane_of[partition.topic]
        committed, held = self.source.committed(partition), self.source.offsets(partition)
        topic_id = self.source.topic_id(partition.topic)
        place = f"{partition.topic}/{partition.partition}"
        checkpoint = None
        if committed is not None:
            checkpoint = self.checkpoints.newest(lane.name, partition, committed)
        gap = _why_not_there(committed, held, checkpoint, topic_id)
        if committed is None or gap is not None:
            start = self._first_offset(lane, place, gap, held)
            if committed is not None:
                metrics.OFFSET_GAPS.labels(lane.name).inc(max(held.begin - committed, 0))
        else:
            unusable = _why_unusable(checkpoint, lane.pipeline.shape, held)
            if checkpoint is not None and unusable is None:
                self._restore(lane, partition, checkpoint, committed)
                return
            logger.warning("%s: begins at offset %d without state: %s", place, committed, unusable)
            start = committed
        lane.pipeline.restore(partition, {})
        progress = _Progress(start, start, start, topic_id)
        self._write_checkpoint(partition, progress)
        if committed != start:
            self.source.commit({partition: start})
        self.source.start(partition, start)
        self._progress[partition] = progress
        metrics.RESTORED.labels(lane.name, "cold").inc()

    def _restore(self, lane: Lane, partition: TopicPartition, checkpoint: Checkpoint, committed: int) -> None:
        lane.pipeline.restore(partition, checkpoint.arrays)
        self.source.start(partition, checkpoint.next_offset)
        self._progress[partition] = _Progress(
            checkpoint.next_offset, committed, checkpoint.next_offset, checkpoint.topic_id
        )
        metrics.RESTORED.labels(lane.name, "checkpoint").inc()
        logger.info("%s/%d: restored at offset %d, replays to %d", *partition, checkpoint.next_offset, committed)

    def _first_offset(self, lane: Lane, place: str, gap: str | None, held: OffsetRange) -> int:
        """Choose where to begin without a usable committed offset; a gap is said, never skipped in silence."""
        if lane.start == "fail":
            raise ConfigError(
                f"{place}: {gap or 'the group has no committed offset'}, and streams.{lane.name}.start is `fail`; "
                "set it to `earliest` or `latest`, or commit an offset for the group"
            )
        start = held.begin if lane.start == "earliest" else held.end
        if gap is not None:
            logger.error("%s: %s; beginning at the %s one, %d", place, gap, lane.start, start)
        else:
            logger.info("%s: begins at offset %d, nothing to restore", place, start)
        return start

    def _score(self, polled: Sequence[PartitionRecords]) -> list[tuple[Lane, Outcome]]:
        outcomes: list[tuple[Lane, Outcome]] = []
        for lane in self.lanes:
            arrived = [records for records in polled if records.partition.topic == lane.topic]
            if not arrived:
                continue
            outcome = lane.pipeline.process(arrived, _measure)
            outcomes.append((lane, outcome))
            for records in arrived:
                progress = self._progress[records.partition]
                rejects = [reject for reject in outcome.rejects if reject.partition == records.partition]
                self._limit_rejects(lane, progress, records, rejects)
                progress.next_offset = records.next_offset
        return outcomes

    def _limit_rejects(
        self, lane: Lane, progress: _Progress, records: PartitionRecords, rejects: Sequence[Reject]
    ) -> None:
        """Stop where nothing but rejects arrives: a wrong configuration would dead-letter a whole topic."""
        expected_row, run = 0, progress.rejects_in_a_row
        for reject in sorted(rejects, key=lambda reject: reject.row):
            run = run + 1 if reject.row == expected_row else 1
            expected_row = reject.row + 1
            if run > self.settings.max_rejects_in_a_row:
                place = f"{records.partition.topic}/{records.partition.partition}@{reject.record.offset}"
                raise RecordError(
                    f"stream {lane.name}: more than {self.settings.max_rejects_in_a_row} records in a row were "
                    f"rejected, the last at {place} ({reject.reason}: {reject.text}); run `offkey check`, or raise "
                    "worker.max_rejects_in_a_row"
                )
        progress.rejects_in_a_row = run if expected_row == len(records.records) else 0

    def _publish(self, outcomes: Sequence[tuple[Lane, Outcome]]) -> None:
        with _measure("publish"):
            sent = 0
            for _, outcome in outcomes:
                for alert in outcome.alerts:
                    if self._is_new(TopicPartition(alert.topic, alert.partition), alert.offset):
                        self.publisher.send(alerts.message(alert, self.settings.alerts_topic))
                        sent += 1
                for reject in outcome.rejects:
                    if self._is_new(reject.partition, reject.record.offset):
                        self.publisher.send(dead_letters.message(reject, self.settings.dead_letters_topic))
                        sent += 1
            if sent:
                self.publisher.flush(self.settings.delivery_timeout_s)

    def _commit(self, polled: Sequence[PartitionRecords]) -> None:
        with _measure("commit"):
            moved = {
                records.partition: records.next_offset
                for records in polled
                if self._is_new(records.partition, records.next_offset - 1)
            }
            if moved:
                self.source.commit(moved)

    def _is_new(self, partition: TopicPartition, offset: int) -> bool:
        return offset >= self._progress[partition].publish_from

    def _write_checkpoint(self, partition: TopicPartition, progress: _Progress) -> None:
        lane = self._lane_of[partition.topic]
        self.checkpoints.write(
            Checkpoint(
                stream=lane.name,
                partition=partition,
                topic_id=progress.topic_id,
                next_offset=progress.next_offset,
                model_version=lane.model_version,
                shape=lane.pipeline.shape,
                arrays=lane.pipeline.snapshot(partition),
            )
        )
        progress.checkpointed = progress.next_offset

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in list(partitions):
            lane = self._lane_of[partition.topic]
            lane.pipeline.drop(partition)
            if self._progress.pop(partition, None) is not None and partition in self._assigned:
                metrics.RESTARTS.labels(lane.name).inc()

    def _count(self, polled: Sequence[PartitionRecords], outcomes: Sequence[tuple[Lane, Outcome]]) -> None:
        for records in polled:
            stream = self._lane_of[records.partition.topic].name
            publish_from = self._progress[records.partition].publish_from
            old = bisect_left(records.records, publish_from, key=lambda record: record.offset)
            new = len(records.records) - old
            metrics.RECORDS.labels(stream).inc(new)
            metrics.REPLAYED.labels(stream).inc(len(records.records) - new)
        for lane, outcome in outcomes:
            of_lane = sum(len(records.records) for records in polled if records.partition.topic == lane.topic)
            metrics.BATCH_RECORDS.labels(lane.name).observe(of_lane)
            metrics.SCORED.labels(lane.name).inc(outcome.points_scored)
            metrics.WARMING.labels(lane.name).inc(outcome.points_warming)
            metrics.LATE.labels(lane.name).inc(outcome.late)
            metrics.HELD.labels(lane.name).inc(outcome.held)
            metrics.WRONG_PARTITION.labels(lane.name).inc(outcome.series_moved)
            for alert in outcome.alerts:
                if self._is_new(TopicPartition(alert.topic, alert.partition), alert.offset):
                    metrics.ALERTS.labels(lane.name, alert.state).inc()
            for reject in outcome.rejects:
                if self._is_new(reject.partition, reject.record.offset):
                    metrics.REJECTED.labels(lane.name, reject.reason).inc()

    def _report(self) -> None:
        lag = self.source.lag()
        for lane in self.lanes:
            metrics.LAG.labels(lane.name).set(sum(n for place, n in lag.items() if place.topic == lane.topic))
            metrics.PARTITIONS.labels(lane.name).set(sum(p.topic == lane.topic for p in self._progress))
            metrics.OPEN_INCIDENTS.labels(lane.name).set(lane.pipeline.open_incidents)
            metrics.SERIES.labels(lane.name).set(lane.pipeline.series_held)


def quiet_collector() -> None:
    """Keep Python's cycle collector out of the way of the records: for a process that only runs a worker.

    Nothing on a record's path makes reference cycles, but a poll's thousands of tuples would have the collector
    walk all objects several times a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _why_not_there(
    committed: int | None, held: OffsetRange, checkpoint: Checkpoint | None, topic_id: str
) -> str | None:
    """Say why the records behind a committed offset are not the ones that it counted."""
    if committed is None:
        return None
    if checkpoint is not None and checkpoint.topic_id != topic_id:
        return f"the topic was made anew, committed offset {committed} is of the earlier one"
    if not held.begin <= committed <= held.end:
        return f"committed offset {committed} is not among those held, {held.begin} to {held.end}"
    return None


def _why_unusable(checkpoint: Checkpoint | None, shape: str, held: OffsetRange) -> str | None:
    if checkpoint is None:
        return "there is no checkpoint at or below the committed offset"
    if checkpoint.shape != shape:
        return f"the checkpoint was made for {checkpoint.shape}, the model now has {shape}"
    if checkpoint.next_offset < held.begin:
        return f"records from the checkpoint's offset {checkpoint.next_offset} on have expired"
    return None


@contextmanager
def _measure(stage: str) -> Iterator[None]:
    with metrics.STAGE_SECONDS.labels(stage).time():
        yield
