"""The worker: poll -> stages -> publish -> commit; its state follows the committed offsets.

What holds after each step, and so what a crash right after it costs:

1. Records are polled and scored: nothing has left the worker. They are read again.
2. Alerts and dead letters are sent and every one is confirmed: the records are read again. At least once, the same
   ids are published a second time; exactly once, nobody has seen the first ones.
3. The next offsets are committed, exactly once together with step 2: nothing is repeated.
4. Now and then the state is checkpointed, never past the commit and beside the records: a restart loads the newest
   checkpoint at or below the committed offset and replays the records between the two without publishing.

A checkpoint that storage does not take changes none of that; the restart only replays more.

After any failure to publish or commit, the state of the partitions concerned is thrown away and restored as a
restart would; how, and where a partition begins that has no state, is told in `pipeline.partitions`.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline import metrics
from pipeline.adoptions import Adoptions
from pipeline.checkpointing import Progress
from pipeline.errors import AssignmentLost, RecordError, TransientError
from pipeline.listening import Listening
from pipeline.logs import about
from pipeline.partitions import Partitions
from pipeline.patience import Patience
from pipeline.protocols import Checkpoints, Delivery, PartitionRecords, Source, TopicPartition
from pipeline.shadowing import Judged, Shadowing
from pipeline.stages import alerts, dead_letters
from pipeline.stages.bounds import Reason
from pipeline.stages.decode import Reject
from pipeline.stopping import Stop
from pipeline.stream import LEVELS, Lane, Measure, Outcome, Scored

logger = logging.getLogger(__name__)

_BUSY_POLL_S = 0.05
_CHECKPOINT_PATIENCE_S = 5.0
_SHADOW_PATIENCE_S = 1.0
_FLUSHED_BY, _CHECKPOINTED_BY = 0.6, 0.8
"""Shares of a stop's budget that may be gone after the last flush and after the last checkpoint."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Where a worker publishes, and how patient it is."""

    alerts_topic: str
    dead_letters_topic: str
    poll_timeout_s: float = 0.5
    delivery_timeout_s: float = 30.0
    checkpoint_every_s: float = 10.0
    checkpoint_wait_s: float = 0.0
    """How long a turn of the loop waits for storage to take a checkpoint; what takes longer is seen later."""
    retry_deadline_s: float = 60.0
    max_rejects_in_a_row: int = 10_000


@dataclass
class Worker:
    """Runs the streams' stages over one source. Everything happens on the thread that calls `run`."""

    lanes: Sequence[Lane]
    source: Source
    delivery: Delivery
    checkpoints: Checkpoints
    adoptions: Adoptions
    settings: WorkerOptions
    clock: Callable[[], float] = time.monotonic
    listening: Listening | None = None
    """Follows what is said of incidents; None: nothing is heard, and what was adopted goes on to act."""
    shadowing: Shadowing | None = None
    """Runs the versions in shadow; None: there are none."""

    def __post_init__(self) -> None:
        self._lane_of = {lane.topic: lane for lane in self.lanes}
        self.partitions = Partitions(self._lane_of, self.source, self.checkpoints, self.adoptions, self.clock)
        self._checkpoint_due_s = self.clock() + self.settings.checkpoint_every_s
        self._only_replayed = False
        self._told_of_moves: set[str] = set()
        self._told_evicted: set[tuple[TopicPartition, Reason]] = set()
        self._judged: list[Judged] = []
        """What the last poll came to, for the versions in shadow."""
        self._stop = Stop()
        self.turned_s: float | None = None
        """When the loop last came round, by `clock`; None before its first turn."""
        self.joined = False
        """Whether the group counted this worker in when its assignment was last followed."""
        self.trouble = ""
        """What makes it try again just now."""

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def facts(self) -> dict[str, object]:
        """Return what the probes tell beside the verdict; may be asked on another thread."""
        return {
            "models": {lane.name: lane.slot.champion.version for lane in self.lanes},
            "partitions_assigned": len(self.partitions.assigned),
            "partitions_restored": len(self.partitions.progress.copy()),
        }

    def missing(self) -> Iterator[str]:
        """Yield what keeps partitions from being scored; may be asked on another thread."""
        progress = self.partitions.progress.copy()
        for partition in sorted(self.partitions.assigned):
            at = progress.get(partition)
            if at is None:
                yield f"{partition}: its state is not restored yet"
            elif at.next_offset < at.publish_from:
                yield f"{partition}: replays {at.publish_from - at.next_offset} records to restore its state"

    def run(self, stop: Stop) -> None:
        """Work until `stop` is set, then checkpoint, all within the stop's budget.

        Raises:
            TransientError: the outside world stayed away for longer than `retry_deadline_s`.
            RecordError: a record cannot be kept safe, or too many in a row were rejected.
            ConfigError: a topic, a right or an offset is missing.
        """
        patience = Patience(self.settings.retry_deadline_s, self.clock)
        self._stop = stop
        stop.begun = True
        while not stop.is_set():
            self.turned_s = self.clock()
            try:
                self.step()
                self.trouble = ""
                # What is replayed after a failure says nothing of whether the cause has gone.
                if not self._only_replayed:
                    patience.renew()
            except TransientError as error:
                self.trouble = str(error)
                patience.wait(error, stop)
        # Whose topic was made anew is seen by the next start: there is no time to ask the broker.
        self.partitions.checkpointing.begin_round(last=True)
        self._checkpoint(self._stop.left_s(_CHECKPOINTED_BY))
        if self.partitions.checkpointing.behind():
            logger.warning("stopping: %s", self.unfinished())
        if self.shadowing is not None:
            self.shadowing.close(min(_SHADOW_PATIENCE_S, self._stop.left_s(_CHECKPOINTED_BY)))

    def unfinished(self) -> str:
        """Say what an end at once leaves undone; may be asked on another thread."""
        progress = self.partitions.progress.copy()
        behind = [(place, progress[place]) for place in self.partitions.checkpointing.behind() if place in progress]
        if not behind:
            return "nothing is lost: what is not committed is read again"
        places = ", ".join(f"{place} after {at.checkpointed}" for place, at in behind[:5])
        more = f" and {len(behind) - 5} more" if len(behind) > 5 else ""
        return f"no checkpoint of {places}{more}; nothing is lost, the next start replays from there"

    def step(self) -> int:
        """Take one poll from records to committed offsets; return how many records it held.

        Raises:
            TransientError: something outside failed; the next step starts from the committed offsets.
        """
        joined = self.source.joined()
        try:
            self.delivery.settle()
            self.partitions.follow_assignment()
            if self.listening is not None:
                self.listening.look()
            self.partitions.adopt()
            if self.shadowing is not None:
                for lane in self.lanes:
                    self.shadowing.prepare(lane, self.partitions.standing)
            self.joined = joined
        except AssignmentLost:
            self._lose_all()
            raise
        with metrics.measure("poll"):
            # A large checkpoint takes many turns, be there records or not.
            most_s = _BUSY_POLL_S if self.partitions.checkpointing.busy else self.settings.poll_timeout_s
            polled = self.source.poll(min(most_s, self.settings.poll_timeout_s))
        polled = [records for records in polled if records.partition in self.partitions.progress]
        self._only_replayed = False
        if polled:
            try:
                outcomes = self._score(polled)
            except AssignmentLost:
                self._lose_all()
                raise
            try:
                self._publish(outcomes)
                self._only_replayed = not self._finish(polled)
            except TransientError:
                self.partitions.forget(records.partition for records in polled)
                raise
            self._count(polled, outcomes)
            if self.shadowing is not None:
                self.shadowing.follow(self._judged)
                # Their records are needed no more.
                self._judged = []
        if self.clock() >= self._checkpoint_due_s:
            self.partitions.forget_remade()
            self.partitions.checkpointing.begin_round()
            self._checkpoint_due_s = self.clock() + self.settings.checkpoint_every_s
        self._checkpoint(self.settings.checkpoint_wait_s)
        self._report()
        return sum(len(records.records) for records in polled)

    def _lose_all(self) -> None:
        """Forget all state: the group, or another worker, has moved on without this one."""
        self.partitions.forget_all()
        # Only a poll joins the group again; what it brings is read anew.
        self.source.poll(0)

    def checkpoint(self) -> None:
        """Write the state of every partition that has moved since its last checkpoint, and wait for it.

        Storage that does not take it is no error: that is counted and said, and tried again when next due.

        Raises:
            ConfigError: a topic is not there any more.
            TransientError: the broker does not answer.
        """
        self.partitions.forget_remade()
        self.partitions.checkpointing.begin_round()
        self._checkpoint(_CHECKPOINT_PATIENCE_S)

    def _checkpoint(self, wait_s: float) -> None:
        if self.partitions.checkpointing.busy:
            with metrics.measure("checkpoint"):
                self.partitions.checkpointing.go_on(wait_s)

    def _score(self, polled: Sequence[PartitionRecords]) -> list[tuple[Lane, Outcome]]:
        outcomes: list[tuple[Lane, Outcome]] = []
        self._judged = []
        for lane in self.lanes:
            arrived = [records for records in polled if records.partition.topic == lane.topic]
            if not arrived:
                continue
            with _added_up() as measure:
                for model, run in self.partitions.adopting.runs(arrived):
                    lane.pipeline.use(model)
                    for part in lane.split(run):
                        # Nobody asks for the scores here, and they would keep the rows of every part.
                        outcome = replace(lane.pipeline.process(part, measure), scored_now=_not_kept)
                        outcomes.append((lane, outcome))
                        if self.shadowing is not None and self.shadowing.is_on(lane):
                            words = {
                                each.partition: self.partitions.adopting.words(each.partition) for each in part
                            }
                            self._judged.append(Judged(lane, part, outcome, words))
                        self._follow(lane, part, outcome)
        return outcomes

    def _follow(self, lane: Lane, processed: Sequence[PartitionRecords], outcome: Outcome) -> None:
        for records in processed:
            progress = self.partitions.progress[records.partition]
            rejects = [reject for reject in outcome.rejects if reject.partition == records.partition]
            self._limit_rejects(lane, progress, records, rejects)
            progress.next_offset = records.next_offset

    def _limit_rejects(
        self, lane: Lane, progress: Progress, records: PartitionRecords, rejects: Sequence[Reject]
    ) -> None:
        """Stop where nothing but rejects arrives: a wrong configuration would dead-letter a whole topic."""
        expected_row, run = 0, progress.rejects_in_a_row
        # Where one row is rejected, the record has others that are not.
        whole = [reject for reject in rejects if reject.inner is None]
        for reject in sorted(whole, key=lambda reject: reject.row):
            run = run + 1 if reject.row == expected_row else 1
            expected_row = reject.row + 1
            if run > self.settings.max_rejects_in_a_row:
                place = f"{records.partition}@{reject.record.offset}"
                raise RecordError(
                    f"stream {lane.name}: more than {self.settings.max_rejects_in_a_row} records in a row were "
                    f"rejected, the last at {place} ({reject.reason}: {reject.text}); run `offkey check`, or raise "
                    "worker.max_rejects_in_a_row"
                )
        progress.rejects_in_a_row = run if expected_row == len(records.records) else 0

    def _publish(self, outcomes: Sequence[tuple[Lane, Outcome]]) -> None:
        with metrics.measure("publish"):
            for _, outcome in outcomes:
                for alert in outcome.alerts:
                    if self._is_new(TopicPartition(alert.topic, alert.partition), alert.offset):
                        self.delivery.send(alerts.message(alert, self.settings.alerts_topic))
                for reject in outcome.rejects:
                    if self._is_new(reject.partition, reject.record.offset):
                        self.delivery.send(dead_letters.message(reject, self.settings.dead_letters_topic))

    def _finish(self, polled: Sequence[PartitionRecords]) -> bool:
        """Have all confirmed and commit what is new of the records; return whether anything is."""
        with metrics.measure("commit"):
            moved = {
                records.partition: records.next_offset
                for records in polled
                if self._is_new(records.partition, records.next_offset - 1)
            }
            self.delivery.finish(moved, min(self.settings.delivery_timeout_s, self._stop.left_s(_FLUSHED_BY)))
        return bool(moved)

    def _is_new(self, partition: TopicPartition, offset: int) -> bool:
        return self.partitions.progress[partition].is_new(offset)

    def _count(self, polled: Sequence[PartitionRecords], outcomes: Sequence[tuple[Lane, Outcome]]) -> None:
        for records in polled:
            stream = self._lane_of[records.partition.topic].name
            publish_from = self.partitions.progress[records.partition].publish_from
            replayed = bisect_left(records.records, publish_from, key=lambda record: record.offset)
            metrics.RECORDS.labels(stream).inc(len(records.records) - replayed)
            metrics.RECORDS_REPLAYED.labels(stream).inc(replayed)
            first, last = records.records[0].offset, records.records[-1].offset
            version = self.partitions.adopting.version(records.partition)
            said = about(records.partition, stream=stream, offset=first, last_offset=last, version=version)
            logger.debug("%s: offsets %d to %d are done", records.partition, first, last, extra=said)
        for lane in self.lanes:
            if of_lane := sum(len(records.records) for records in polled if records.partition.topic == lane.topic):
                metrics.BATCH_RECORDS.labels(lane.name).observe(of_lane)
        for lane, outcome in outcomes:
            metrics.POINTS_SCORED.labels(lane.name).inc(outcome.points_scored)
            metrics.POINTS_WARMING.labels(lane.name).inc(outcome.points_warming)
            metrics.INCIDENTS_ALLOWED.labels(lane.name).inc(outcome.allowed)
            for level, points in zip(LEVELS, outcome.reached, strict=True):
                metrics.POINTS_REACHED.labels(lane.name, str(level)).inc(points)
            metrics.RECORDS_LATE.labels(lane.name).inc(outcome.late)
            metrics.POINTS_HELD.labels(lane.name).inc(outcome.held)
            metrics.POINTS_EXCUSED.labels(lane.name).inc(outcome.excused)
            metrics.SERIES_MOVED.labels(lane.name).inc(outcome.series_moved)
            if outcome.series_moved and lane.name not in self._told_of_moves:
                self._told_of_moves.add(lane.name)
                logger.warning(
                    "stream %s: %d series or more are in two partitions, judged in each; key topic %s by series",
                    *(lane.name, outcome.series_moved, lane.topic),
                    extra=about(stream=lane.name, topic=lane.topic),
                )
            for place, offset, why in outcome.evicted:
                if self._is_new(place, offset):
                    metrics.SERIES_EVICTED.labels(lane.name, why).inc()
                    self._tell_evicted(lane, place, offset, why)
            for alert in outcome.alerts:
                if self._is_new(TopicPartition(alert.topic, alert.partition), alert.offset):
                    metrics.ALERTS.labels(lane.name, alert.state).inc()
            for alert, reason in outcome.muted:
                if self._is_new(TopicPartition(alert.topic, alert.partition), alert.offset):
                    metrics.ALERTS_MUTED.labels(lane.name, alert.state, reason).inc()
            for reject in outcome.rejects:
                if self._is_new(reject.partition, reject.record.offset):
                    metrics.RECORDS_REJECTED.labels(lane.name, reject.reason).inc()

    def _tell_evicted(self, lane: Lane, at: TopicPartition, offset: int, reason: Reason) -> None:
        """Say once of each partition that series leave, and what can be done."""
        if (at, reason) in self._told_evicted:
            return
        self._told_evicted.add((at, reason))
        said = about(at, stream=lane.name, offset=offset)
        if reason == "max_series":
            logger.warning(
                "%s: more series than its share, from offset %d on: a new one takes the place of the one least "
                "recently seen, which warms up again when it comes back; raise streams.%s.max_series, or find out "
                "what makes so many names (offkey_series_evicted_total counts on)",
                *(at, offset, lane.name),
                extra=said,
            )
        else:
            logger.info("%s: series leave after streams.%s.series_ttl without a record", at, lane.name, extra=said)

    def _report(self) -> None:
        lag = self.source.lag()
        for lane in self.lanes:
            assigned = sum(place.topic == lane.topic for place in self.partitions.progress)
            metrics.LAG_RECORDS.labels(lane.name).set(sum(n for at, n in lag.items() if at.topic == lane.topic))
            metrics.PARTITIONS_ASSIGNED.labels(lane.name).set(assigned)
            metrics.INCIDENTS_OPEN.labels(lane.name).set(lane.pipeline.open_incidents)
            metrics.SERIES.labels(lane.name).set(lane.pipeline.series_held)


def _not_kept() -> Scored:
    raise AssertionError("the worker keeps no scores")


@contextmanager
def _added_up() -> Iterator[Measure]:
    """Give a measure for stages that take several steps; of each stage the sum is observed."""
    taken_s: dict[str, float] = {}

    @contextmanager
    def measure(stage: str) -> Iterator[None]:
        began_s = time.perf_counter()
        try:
            yield
        finally:
            taken_s[stage] = taken_s.get(stage, 0.0) + time.perf_counter() - began_s

    try:
        yield measure
    finally:
        for stage, seconds in taken_s.items():
            metrics.STAGE_DURATION_SECONDS.labels(stage).observe(seconds)
