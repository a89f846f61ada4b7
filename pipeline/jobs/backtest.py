"""`offkey backtest`: rows of snapshots through the very stages of a worker, judged as they were when they came.

The stages do no I/O, and what they come to depends on a series' records in the order of offsets, never on how
polls cut them: so partitions are replayed one behind the other, in large pieces. What each record is judged by, a
model and what was said of incidents, stands in the log of adoptions, followed as a restarted worker follows it.

A replay comes to the scores and incidents of the live run where it begins as that did: where the worker began
(`start`), or from a checkpoint at or before the range, through the rows between the two (`checkpoint`). Anywhere
else it begins with no state (`cold`): series warm up, and incidents that were open are not known. That first
stretch is marked, `WARMING_POINTS` long by the training's interval. Nothing tells a replay that a worker lost its
state meanwhile, or had another configuration: then it differs.

Legend: N rows.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from models.spec import shortened
from pipeline.adopting import Adopting
from pipeline.adoptions import Adoption, AdoptionLog, Adoptions
from pipeline.errors import CheckpointError, ConfigError, SnapshotError
from pipeline.feedback import Feedback, Words
from pipeline.protocols import Checkpoint, Checkpoints, OffsetRange, TopicPartition
from pipeline.replayed import RowRecords, records_of
from pipeline.snapshots import Gap, Position, SnapshotRows, Snapshots
from pipeline.stages.decode import MAX_TIME_MS
from pipeline.stages.tables import ROWS_AT_ONCE
from pipeline.stream import Lane, Outcome

logger = logging.getLogger(__name__)

FIRST_MS, LAST_MS = -(2**63), 2**63 - 1
"""Every Kafka timestamp lies between them, -1 where there is none too."""
WARMING_POINTS = 800
"""After so many points the online tail of a series has seen its upper quantile, the 50th part, passed 16 times."""
_POINTS_AT_ONCE = 4_096
"""Of a series, about so many rows make a piece. Those of few series are judged one behind the other: a piece of the
most rows would take seconds, and Ctrl-C waits for its end."""
Way = Literal["start", "checkpoint", "cold"]


@dataclass(frozen=True, slots=True)
class Begun:
    """Where and how the replay of one partition begins."""

    partition: TopicPartition
    topic_id: str
    offset: int
    """What comes before it is not told of."""
    way: Way
    state_offset: int
    """From where on rows are read: a checkpoint's offset, or `offset`."""
    warming_until_ms: int | None = None
    """Event time of the end of the first stretch of a cold begin."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What some rows of one partition came to."""

    begun: Begun
    rows: SnapshotRows
    version: str
    """Of the model that judged them."""
    outcome: Outcome


class OneVersion:
    """The logs of adoptions as if one version had served all the time; see `pipeline.adoptions.Adoptions`."""

    def __init__(self, adoptions: Adoptions, version: str) -> None:
        self._adoptions, self._version = adoptions, version

    def since(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> AdoptionLog:
        log = self._adoptions.since(stream, partition, topic_id, offset)
        return replace(log, entries=[replace(entry, version=self._version) for entry in log.entries])

    def words(self, stream: str, name: str) -> Words | None:
        return self._adoptions.words(stream, name)

    def keep(self, stream: str, words: Words) -> None:
        raise AssertionError("a replay says nothing")

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        raise AssertionError("a replay adopts nothing")


@dataclass
class Replay:
    """One stream's snapshots, to be judged once. Nothing is written to storage."""

    lane: Lane
    """Its decoder is a `ReplayDecoder`."""
    snapshots: Snapshots
    checkpoints: Checkpoints
    adoptions: Adoptions
    version: str | None = None
    """Judges all, in the place of those that the log names; None: those."""
    begun: list[Begun] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    """Versions that were replaced where other processes have judged."""

    def __post_init__(self) -> None:
        self.places = self.snapshots.partitions(self.lane.name)
        if not self.places:
            raise SnapshotError(
                f"stream {self.lane.name} has no snapshots; keep some with: offkey record CONFIG {self.lane.name}"
            )
        logs = self.adoptions if self.version is None else OneVersion(self.adoptions, self.version)
        self._logs = logs
        self._ranges: dict[tuple[TopicPartition, str], Sequence[OffsetRange]] = {}
        self._adopting = Adopting({place.topic: self.lane for place in self.places}, logs)
        detector = self.lane.slot.champion.detector
        self._features = detector.spec.features
        window_ms = (detector.spec.window + WARMING_POINTS) * detector.calibration.interval_ms
        self._warming_ms = int(window_ms)

    @property
    def replaced(self) -> Sequence[str]:
        """Versions that the log names and that cannot be had: the champion judged in their place."""
        return sorted({*self._adopting.replaced, *self.elsewhere})

    def run(self, from_ms: int | None = None, to_ms: int | None = None) -> Iterator[Judged]:
        """Judge the rows with Kafka timestamps from `from_ms` on and before `to_ms`, partition by partition.

        Without `from_ms` a partition begins where its worker did, if that is kept; otherwise with its first row
        that came in then. Later rows count by their offsets, whatever their own timestamps say.

        Raises:
            SnapshotError: there is no such row, or a file is damaged or of another kind.
            ConfigError: the snapshots lack features of the model.
            TransientError: storage does not answer.
        """
        found = False
        for place in self.places:
            for judged in self.run_partition(place, from_ms, to_ms):
                found = True
                yield judged
        if not found:
            raise self.nothing(from_ms, to_ms)

    def run_partition(self, place: TopicPartition, from_ms: int | None, to_ms: int | None) -> Iterator[Judged]:
        """Judge one partition as `run` does, of which there may be nothing; no other one has a say in it."""
        low, high = FIRST_MS if from_ms is None else from_ms, LAST_MS if to_ms is None else to_ms
        first = self._first(place, low, high, None)
        if first is not None:
            yield from self._partition(first, high, from_ms is None)
            self._forget(place)

    def _partition(self, first: SnapshotRows, to_ms: int, whole: bool) -> Iterator[Judged]:
        """Judge a partition, from its first row in the range on; of one made anew what comes later too."""
        begun = self._begin(first, whole)
        position = Position(begun.topic_id, begun.state_offset)
        for rows in self.snapshots.read(
            self.lane.name, FIRST_MS, to_ms, self.gaps.append, since={first.partition: position}
        ):
            if rows.topic_id != begun.topic_id:
                self._forget(rows.partition)
                begun = self._begin(rows, True)
            for piece in self._pieces(rows.take(rows.offset_N >= begun.state_offset), begun):
                for model, run in self._adopting.runs([records_of(piece)]):
                    self.lane.pipeline.use(model)
                    outcome = self.lane.pipeline.process(run)
                    (judged,) = run
                    assert isinstance(judged.records, RowRecords)
                    if judged.records[0].offset >= begun.offset:
                        yield Judged(begun, judged.records.rows, model.version, outcome)

    def _pieces(self, rows: SnapshotRows, begun: Begun) -> Iterator[SnapshotRows]:
        """Cut rows where those begin that are told of, and to a size; take the model's features out of them."""
        at = int(np.searchsorted(rows.offset_N, begun.offset))
        # Rows of no series are judged all together.
        series = len(rows.series or ()) or ROWS_AT_ONCE
        most = min(_POINTS_AT_ONCE * series, ROWS_AT_ONCE)
        for low, high in ((0, at), (at, len(rows))):
            for begin in range(low, high, most):
                yield self.of_model(rows.take(slice(begin, min(begin + most, high))))

    def of_model(self, rows: SnapshotRows) -> SnapshotRows:
        """Return rows with the model's features, in its order.

        Raises:
            ConfigError: they lack some.
        """
        if rows.features == self._features:
            return rows
        if lacking := [name for name in self._features if name not in rows.features]:
            version = self.lane.slot.champion.version
            raise ConfigError(
                f"stream {self.lane.name}: model {version} reads {shortened(lacking)}, and its snapshots hold "
                f"{shortened(rows.features)}; name a version that was made for these, or train one with: offkey "
                f"train CONFIG {self.lane.name}"
            )
        values_NF = rows.values_NF[:, [rows.features.index(name) for name in self._features]]
        return replace(rows, features=self._features, values_NF=np.ascontiguousarray(values_NF))

    def _begin(self, first: SnapshotRows, whole: bool) -> Begun:
        """Put the state in place that a partition's rows meet; raises as `Checkpoints.newest` does."""
        place, topic_id, offset = first.partition, first.topic_id, int(first.offset_N[0])
        log = self._logs.since(self.lane.name, place, topic_id, 0)
        start = log.entries[0].first_offset if log.entries and log.entries[0].number == 1 else None
        self._divide(place, topic_id)
        self.lane.pipeline.restore(place, [])
        version = log.entries[0].version if log.entries else self.version
        if start is not None and self._begins_there(first, start, whole):
            begun = Begun(place, topic_id, start, "start", start)
        elif (checkpoint := self._checkpoint(first)) is not None:
            begun = Begun(place, topic_id, offset, "checkpoint", checkpoint.next_offset)
            version = checkpoint.model_version
        else:
            until_ms = int(first.time_ms_N[0]) + self._warming_ms
            begun = Begun(place, topic_id, offset, "cold", offset, until_ms)
        self._adopting.follow(place, topic_id, begun.state_offset, version)
        self.begun.append(begun)
        return begun

    def _begins_there(self, first: SnapshotRows, start: int, whole: bool) -> bool:
        """Tell whether a replay from a partition's first row in the range on begins as its worker did."""
        place, topic_id, offset = first.partition, first.topic_id, int(first.offset_N[0])
        if not any(begin <= start <= end for begin, end in self._kept(place, topic_id)):
            return False
        if whole or start == offset:
            return True
        # What lies between has no row: its records were rejected.
        if not self._covers(place, topic_id, OffsetRange(start, offset)):
            return False
        between = self._first(place, FIRST_MS, LAST_MS, Position(topic_id, start))
        return between is not None and int(between.offset_N[0]) == offset

    def _checkpoint(self, first: SnapshotRows) -> Checkpoint | None:
        """Return a checkpoint whose state is in place, and from which on all offsets are kept up to a row."""
        place, topic_id, offset = first.partition, first.topic_id, int(first.offset_N[0])
        while self.version is None:
            found = self.checkpoints.newest(self.lane.name, place, offset)
            if found is None or (found.topic_id, found.shape) != (topic_id, self.lane.pipeline.shape):
                break
            if not self._covers(place, topic_id, OffsetRange(found.next_offset, offset)):
                break
            try:
                self.lane.pipeline.restore(place, found.parts())
                return found
            except CheckpointError as error:
                found.refuse(str(error))
                logger.error("%s/%d: not restored at offset %d: %s", *place, found.next_offset, error)
                self.lane.pipeline.restore(place, [])
        return None

    def _divide(self, place: TopicPartition, topic_id: str) -> None:
        """Give a partition the share of the series that it had with the worker, as far as storage knows it."""
        try:
            at_first = self.checkpoints.partitions_at_first(self.lane.name, place.topic, topic_id, _not_kept)
        except _NotKept:
            at_first = len({each for each in self.places if each.topic == place.topic})
        self.lane.pipeline.divide(place, at_first)

    def _covers(self, place: TopicPartition, topic_id: str, asked: OffsetRange) -> bool:
        return any(begin <= asked.begin and asked.end <= end for begin, end in self._kept(place, topic_id))

    def _kept(self, place: TopicPartition, topic_id: str) -> Sequence[OffsetRange]:
        # Each time all files of the stream would be listed.
        if (place, topic_id) not in self._ranges:
            kept = self.snapshots.kept(self.lane.name, {place: topic_id})
            self._ranges[place, topic_id] = kept[place].ranges
        return self._ranges[place, topic_id]

    def _first(self, place: TopicPartition, low: int, high: int, at: Position | None) -> SnapshotRows | None:
        """Return the first rows of a partition in a range."""
        read = self.snapshots.read(self.lane.name, low, high, lambda gap: None, since={place: at})
        return next((rows for rows in read if len(rows)), None)

    def _forget(self, place: TopicPartition) -> None:
        self.lane.pipeline.drop(place)
        self._adopting.forget(place)

    def nothing(self, from_ms: int | None, to_ms: int | None) -> SnapshotError:
        """Return the error of a range without rows."""
        name = self.lane.name
        if from_ms is None and to_ms is None:
            return SnapshotError(
                f"stream {name}: its snapshots hold no rows that a worker has judged; run `offkey record` longer"
            )
        there = [self._first(place, FIRST_MS, LAST_MS, None) for place in self.places]
        oldest = min((int(rows.kafka_ms_N[0]) for rows in there if rows is not None), default=None)
        kept = "there are none at all" if oldest is None else f"the oldest came in at {_moment(oldest)}"
        return SnapshotError(
            f"stream {name}: its snapshots hold no rows of that time; {kept}: ask for another --from or --to"
        )


def said_of(replay: Replay) -> dict[str, Feedback]:
    """Return what was said of the stream's incidents by the end of its logs, by incident."""
    said: dict[str, Feedback] = {}
    for begun in replay.begun:
        log = replay.adoptions.since(replay.lane.name, begun.partition, begun.topic_id, sys.maxsize)
        if log.entries:
            words = replay.adoptions.words(replay.lane.name, log.entries[-1].words)
            said |= (words or Words()).said
    return said


class _NotKept(Exception):
    """How many partitions there were is not written down; a replay does not do so."""


def _not_kept() -> int:
    raise _NotKept


def _moment(ms: int) -> str:
    # Kafka timestamps are what producers say.
    from datetime import UTC, datetime

    return datetime.fromtimestamp(min(max(ms, 0), MAX_TIME_MS) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
