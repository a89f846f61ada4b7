"""What each record is judged by: partitions follow their logs of adoptions, and adopt a new champion, and feedback.

A partition that is taken over goes on with the version that its log says, and its new owner says so in an entry of
its own. That takes the number under which the owner before could still adopt another version, if it was only
asleep.

A new champion, or what was said of the stream's incidents since, is adopted for each partition by itself, from an
offset a little ahead on. Records before it are judged as before while the entry is written on a thread of its own;
those from it on wait until storage has taken it. Where storage does not, the partition goes on with what it has.
Before the next try that is said in the log too, over the entry that was given up and may have come there since.

An owner that ended between publishing and committing has told of records that are read again. They are judged by
what the log says, too: a partition that is taken over adopts something new only behind them.

What is replayed is judged by what its log says. A version that cannot be had any more is replaced by the champion,
which is said as an error: such records were published before, so what differs is the state that they leave.
"""

import logging
import secrets
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipeline import metrics
from pipeline.adoptions import Adoption, Adoptions
from pipeline.errors import AssignmentLost, ConfigError, RegistryError, TransientError
from pipeline.feedback import Words
from pipeline.flight import Flight
from pipeline.logs import about
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stream import Lane
from pipeline.stream_model import StreamModel

logger = logging.getLogger(__name__)

_AHEAD = 2
"""A new model begins this many polls of the last one's size ahead, if there are so many records yet."""
_PATIENCE_S = 5.0
"""So long records wait for storage to take an entry."""
_RETRY_S = 10.0
_TRIES = 5
"""Of taking a log over: each fails only if another worker has taken it over just then."""
_AT_ONCE = 8
"""Entries that are on their way to storage together."""

_Flight = Flight[Adoption | None]
"""Of the entry that is the last one then; None: another worker has taken the number."""


@dataclass(slots=True)
class _Next:
    """What comes into force at an offset that lies ahead."""

    first_offset: int
    model: StreamModel
    words: Words
    flight: _Flight | None = None
    """Brings it to storage; None: it is there."""


@dataclass(slots=True)
class Adopted:
    """What one partition is judged by as its offsets go on."""

    model: StreamModel
    """Of the record that comes next, once those of `ahead` have come that begin there."""
    words: Words
    """As `model`."""
    last: Adoption
    """The newest entry of the log, as far as it is known."""
    topic_id: str
    ahead: list[_Next] = field(default_factory=list)
    records_a_poll: int = 0
    published_end: int = 0
    """Records before this offset may have been published by an owner before."""
    retry_at_s: float = 0.0
    """What storage did not take is not tried again before."""
    unsaid: bool = False
    """Whether the log may end otherwise than with `last`, or not with an entry of ours."""
    saying: _Flight | None = None
    """Brings an entry that mends that."""


class Adopting:
    """Follows and writes the adoptions of one worker's partitions; called from the records' thread."""

    def __init__(
        self,
        lane_of: Mapping[str, Lane],
        adoptions: Adoptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lane_of` is by topic."""
        self._lane_of = lane_of
        self._adoptions = adoptions
        self._clock = clock
        self._run = secrets.token_hex(8)
        self._adopted: dict[TopicPartition, Adopted] = {}
        self._flights: dict[TopicPartition, _Flight] = {}
        """The last of each partition, even if its state has been thrown away since."""
        self._told: dict[str, set[tuple[str, str]]] = {}
        """By stream, the (version, architecture) pairs that its gauge names."""
        self._replaced: set[tuple[str, str]] = set()
        """Streams and versions of which it was said that they cannot be had."""

    def take_over(
        self,
        partition: TopicPartition,
        topic_id: str,
        offset: int,
        committed: int,
        version: str | None,
        published_end: int = 0,
    ) -> None:
        """Follow a partition's log as `follow` does, and say in it that this worker goes on from what is committed.

        Nothing new is adopted for records before `published_end`, which the owner before may have published.

        Raises:
            TransientError: storage does not answer, or other workers take the partition over all the time.
        """
        lane, flight = self._lane_of[partition.topic], self._flights.get(partition)
        if flight is not None and not flight.landed(_PATIENCE_S):
            raise TransientError(f"{partition}: storage has not said whether it took what was adopted last")
        for _ in range(_TRIES):
            self.follow(partition, topic_id, offset, version)
            adopted = self._adopted[partition]
            adopted.published_end = published_end
            last = adopted.last
            if last.run == self._run:
                return
            first_offset = max(last.first_offset, committed)
            own = replace(last, number=last.number + 1, first_offset=first_offset, run=self._run)
            try:
                if self._adoptions.write(lane.name, partition, topic_id, own):
                    adopted.last = own
                    return
            except (TransientError, ConfigError) as error:
                said = self._about(partition, first_offset, own.version)
                text = "%s: is taken over, but no entry says so yet: %s"
                logger.warning(text, partition, error, extra=said)
                adopted.unsaid, adopted.retry_at_s = True, self._clock() + _RETRY_S
                return
        self.forget(partition)
        raise TransientError(f"{partition}: other workers take it over again and again")

    def follow(self, partition: TopicPartition, topic_id: str, offset: int, version: str | None) -> None:
        """Find out by what a partition's records are judged from an offset on.

        `version` is that of the checkpoint, where the log does not say; None: the champion.

        Raises:
            TransientError: storage does not answer.
        """
        lane = self._lane_of[partition.topic]
        log = self._adoptions.since(lane.name, partition, topic_id, offset)
        ahead = [
            _Next(entry.first_offset, self._model(lane, entry.version), self._words(lane, entry.words))
            for entry in log.entries
        ]
        if not ahead or ahead[0].first_offset > offset:
            ahead.insert(0, _Next(offset, self._model(lane, version), Words()))
        # Words that are lost are adopted anew, if the topic still says them.
        newest, now = ahead[-1].words, ahead.pop(0)
        last = log.entries[-1] if log.entries else Adoption(log.last_number, offset, now.model.version, "")
        last = replace(last, words=newest.name)
        self._adopted[partition] = Adopted(now.model, now.words, last, topic_id, ahead)
        lane.pipeline.adopt_feedback(partition, offset, now.words.said)
        self._tell(lane)

    @property
    def replaced(self) -> Sequence[str]:
        """Versions that the logs name and that cannot be had."""
        return sorted({version for _, version in self._replaced})

    def forget(self, partition: TopicPartition) -> None:
        """Forget a partition whose state is thrown away."""
        if self._adopted.pop(partition, None) is not None:
            self._tell(self._lane_of[partition.topic])

    def version(self, partition: TopicPartition) -> str:
        """Return the version that a partition's state was judged by last."""
        return self._adopted[partition].model.version

    def words(self, partition: TopicPartition) -> Words:
        """Return what was said of incidents, as it acts on a partition now."""
        return self._adopted[partition].words

    def go_on(self, next_offset: Mapping[TopicPartition, int], lag: Mapping[TopicPartition, int]) -> None:
        """See what became of entries on their way, and have partitions adopt what their stream has now.

        Args:
            next_offset: of the partitions that replay nothing.
            lag: how many records lie ahead of each, as far as is known.

        Raises:
            AssignmentLost: another worker has taken a partition over.
        """
        flying = sum(not self._landed(*each, 0) for each in list(self._adopted.items()))
        for partition, offset in next_offset.items():
            if flying < _AT_ONCE:
                flying += self._adopt(partition, offset, lag.get(partition, 0))

    def runs(self, arrived: Sequence[PartitionRecords]) -> Iterator[tuple[StreamModel, Sequence[PartitionRecords]]]:
        """Cut a poll's records of one stream into runs of one model each, to be processed one behind the other.

        Raises:
            AssignmentLost: another worker has taken a partition over.
        """
        for records in arrived:
            self._adopted[records.partition].records_a_poll = len(records.records)
        while arrived:
            by_model: dict[StreamModel, list[PartitionRecords]] = {}
            later: list[PartitionRecords] = []
            for records in arrived:
                adopted = self._adopted[records.partition]
                self._move(records.partition, adopted, records.records[0].offset)
                now, rest = _cut(records, adopted.ahead[0].first_offset if adopted.ahead else sys.maxsize)
                by_model.setdefault(adopted.model, []).append(now)
                later += rest
            yield from by_model.items()
            arrived = later

    def _adopt(self, partition: TopicPartition, offset: int, lag: int) -> bool:
        """Have a partition adopt champion and feedback, if one is another; return whether an entry is written.

        What the log says of later records comes first.
        """
        adopted, lane = self._adopted[partition], self._lane_of[partition.topic]
        champion, words, last = lane.slot.champion, lane.feedback.words or adopted.words, adopted.last
        if adopted.ahead or adopted.saying or last.first_offset > offset or self._clock() < adopted.retry_at_s:
            return False
        before = self._flights.get(partition)
        if before is not None and not before.landed(0):
            return False
        if adopted.unsaid:
            adopted.saying = self._flights[partition] = _Flight(partial(self._say, partition, adopted), "adoption")
            return True
        if (last.version, last.words) == (champion.version, words.name):
            return False
        first_offset = max(offset + min(_AHEAD * adopted.records_a_poll, lag), adopted.published_end)
        entry = Adoption(last.number + 1, first_offset, champion.version, self._run, words.name)

        def write() -> Adoption | None:
            self._adoptions.keep(lane.name, words)
            return entry if self._adoptions.write(lane.name, partition, adopted.topic_id, entry) else None

        flight = self._flights[partition] = _Flight(write, "adoption")
        adopted.ahead.append(_Next(first_offset, champion, words, flight))
        return True

    def _say(self, partition: TopicPartition, adopted: Adopted) -> Adoption | None:
        """Write that what is in force is still in force, over an entry of ours that was given up and is there.

        So the log names no version by which records were not judged.
        """
        stream, last = self._lane_of[partition.topic].name, adopted.last
        log = self._adoptions.since(stream, partition, adopted.topic_id, last.first_offset)
        newest = log.entries[-1] if log.entries else last
        if newest.run not in (last.run, self._run):
            return None
        first_offset = max(newest.first_offset, last.first_offset)
        own = replace(last, number=log.last_number + 1, first_offset=first_offset, run=self._run)
        return own if self._adoptions.write(stream, partition, adopted.topic_id, own) else None

    def _move(self, partition: TopicPartition, adopted: Adopted, offset: int) -> None:
        """Put into force what begins at or before an offset, as soon as it is known to be in storage."""
        while adopted.ahead and adopted.ahead[0].first_offset <= offset:
            if not self._landed(partition, adopted, _PATIENCE_S):
                self._give_up(partition, adopted, f"storage has not answered for {_PATIENCE_S:.0f} s")
            elif adopted.ahead:
                self._follow(partition, adopted, adopted.ahead.pop(0), offset)

    def _follow(self, partition: TopicPartition, adopted: Adopted, now: _Next, offset: int) -> None:
        """Put an entry into force, with the record at an offset.

        One that only says who owns the partition changes nothing.
        """
        lane = self._lane_of[partition.topic]
        if now.model is not adopted.model:
            adopted.model = now.model
            metrics.MODEL_ADOPTIONS.labels(lane.name).inc()
            version, said = now.model.version, self._about(partition, offset, now.model.version)
            logger.info("%s: judged by model %s from offset %d on", partition, version, offset, extra=said)
            self._tell(lane)
        if now.words.name != adopted.words.name:
            adopted.words = now.words
            lane.pipeline.adopt_feedback(partition, now.first_offset, now.words.said)
            metrics.FEEDBACK_ADOPTIONS.labels(lane.name).inc()
            logger.info(
                "%s: what was said of %d incidents acts from offset %d on",
                *(partition, len(now.words.said), offset),
                extra=self._about(partition, offset, now.model.version),
            )

    def _landed(self, partition: TopicPartition, adopted: Adopted, patience_s: float) -> bool:
        """Return whether no entry of a partition is on its way; one that storage did not take is there no more."""
        own, ahead = adopted.saying, adopted.ahead[0] if adopted.ahead else None
        flight = own or (ahead and ahead.flight)
        if not flight:
            return True
        if not flight.landed(patience_s):
            return False
        adopted.saying = None
        try:
            last = flight.result()
        except (TransientError, ConfigError) as error:
            if own:
                adopted.retry_at_s = self._clock() + _RETRY_S
            else:
                self._give_up(partition, adopted, str(error))
            return True
        if last is None:
            raise AssignmentLost(f"{partition}: another worker has taken it over")
        adopted.last, adopted.unsaid = last, False
        if ahead:
            ahead.flight = None
        return True

    def _give_up(self, partition: TopicPartition, adopted: Adopted, why: str) -> None:
        """Go on with what there is. The entry may be there all the same, or come there yet: see `_say`."""
        given_up = adopted.ahead.pop(0)
        adopted.unsaid, adopted.retry_at_s = True, self._clock() + _RETRY_S
        lane = self._lane_of[partition.topic]
        metrics.MODEL_ADOPTIONS_FAILED.labels(lane.name).inc()
        now, later = f"model {adopted.model.version}", given_up.model.version
        if given_up.model is adopted.model:
            now, later = f"what was said of {len(adopted.words.said)} incidents", "what was said since"
        said = self._about(partition, given_up.first_offset, adopted.model.version)
        logger.error("%s: goes on with %s and adopts %s later: %s", partition, now, later, why, extra=said)

    def _about(self, partition: TopicPartition, offset: int, version: str) -> dict[str, Any]:
        return about(partition, stream=self._lane_of[partition.topic].name, offset=offset, version=version)

    def _model(self, lane: Lane, version: str | None) -> StreamModel:
        """Return a version, or the champion in its place."""
        champion = lane.slot.champion
        if version is None:
            return champion
        try:
            return lane.slot.of(version)
        except (RegistryError, ConfigError) as error:
            if (lane.name, version) not in self._replaced:
                self._replaced.add((lane.name, version))
                logger.error(
                    "stream %s: what was judged by model %s goes on with %s, and so does what is read again: %s",
                    *(lane.name, version, champion.version, error),
                    extra=about(stream=lane.name, version=version),
                )
            return champion

    def _words(self, lane: Lane, name: str) -> Words:
        """Return what an entry names; where it is lost, records are judged as if nothing had been said."""
        return self._adoptions.words(lane.name, name) or Words()

    def _tell(self, lane: Lane) -> None:
        """Have the gauge name the models that the stream's partitions are judged by."""
        used = {adopted.model for place, adopted in self._adopted.items() if place.topic == lane.topic}
        used = used or {lane.slot.champion}
        told = {(model.version, model.detector.name) for model in used}
        for gone in self._told.get(lane.name, set()) - told:
            metrics.MODEL.remove(lane.name, *gone)
        for each in told:
            metrics.MODEL.labels(lane.name, *each).set(1)
        self._told[lane.name] = told


def _cut(records: PartitionRecords, offset: int) -> tuple[PartitionRecords, list[PartitionRecords]]:
    """Return (the records before an offset, those from it on, where there are any); the first is before it."""
    if records.records[-1].offset < offset:
        return records, []
    at = bisect_left(records.records, offset, key=lambda record: record.offset)
    return replace(records, records=records.records[:at]), [replace(records, records=records.records[at:])]
