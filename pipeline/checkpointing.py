"""Checkpoints of the partitions that a worker owns, written beside its records.

From time to time a round begins: each partition that has moved since its last checkpoint is written anew, what has
changed of it, in parts. A part is filled on the records' own thread, a few milliseconds at a time, and written on
another; meanwhile the records go on. `go_on` does what there is to do without waiting longer than it is told.

Storage that takes no checkpoint stops nothing, once it has taken one: the state that it holds is only older, and a
restart replays more. Storage that never took any is refused: it was wrong from the start.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline import metrics
from pipeline.changes import Cut
from pipeline.checkpoint_writer import CheckpointWriter
from pipeline.errors import ConfigError, TransientError
from pipeline.logs import about
from pipeline.part_memory import PartMemory
from pipeline.protocols import Chain, Checkpoint, Checkpoints, Part, TopicPartition
from pipeline.stream import Lane

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""Size of a part, as far as that is up to us: a few milliseconds of copying, and the memory that is held for it."""
_TURN_S = 0.005
"""So long a turn goes on at most with parts that storage takes at once."""
_PATIENCE_S = 5.0
"""A part that is on its way for longer is a failure, and a partition that begins anew waits no longer for it."""
_FAILING_PATIENCE_S = 0.5
"""So long it waits while storage fails."""
_FIRST_PATIENCE_S = 30.0
"""The same while storage has not taken any yet."""


@dataclass(slots=True)
class Progress:
    """How far one partition has come."""

    next_offset: int
    """Offset that the state in memory stands before."""
    publish_from: int
    """Alerts and dead letters of earlier offsets were published before the restart."""
    checkpointed: int
    """Offset of the newest checkpoint; -1 where there is none yet."""
    topic_id: str
    rejects_in_a_row: int = 0
    chain: Chain | None = None
    """What was written of this state; None: nothing yet."""

    def is_new(self, offset: int) -> bool:
        """Tell a record that is read for the first time from a replayed one."""
        return offset >= self.publish_from

    @property
    def is_behind(self) -> bool:
        """Whether the newest checkpoint is older than the state, which is past what is replayed."""
        return self.checkpointed < self.next_offset and self.next_offset >= self.publish_from


@dataclass(frozen=True, slots=True)
class _Flight:
    """A part on its way, and what to do when it has arrived."""

    partition: TopicPartition
    progress: Progress
    part: Part
    cut: Cut
    round: int
    """When it was sent."""


class Checkpointing:
    """Writes the checkpoints of one worker; called from the records' thread."""

    def __init__(
        self,
        lane_of: Mapping[str, Lane],
        checkpoints: Checkpoints,
        progress: Mapping[TopicPartition, Progress],
        version_of: Callable[[TopicPartition], str],
    ) -> None:
        """`lane_of` is by topic; `progress` is followed as it changes; `version_of`: of the model that judges."""
        self._lane_of = lane_of
        self._progress = progress
        self._version_of = version_of
        self._writer = CheckpointWriter(checkpoints)
        self._memory = PartMemory()
        self._flight: _Flight | None = None
        self._waiting: list[TopicPartition] = []
        """Whose checkpoint is due, in turn."""
        self._round = 0
        self._last = False
        self._failed = False
        """Whether anything of the round under way has failed."""
        self._storage_took_one = False
        self._failing_since_s: float | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do or to wait for."""
        return self._flight is not None or bool(self._waiting)

    def behind(self) -> list[TopicPartition]:
        """Return the partitions whose newest checkpoint is older than their state; may be asked on any thread."""
        return [partition for partition, at in dict(self._progress).items() if at.is_behind]

    def begin_round(self, *, last: bool = False) -> None:
        """Have every partition that has moved written, after those that have been waiting for it.

        The `last` round has little time: it begins no chain anew only because there is a long one.
        """
        self._last = last
        if self._flight is not None and self._writer.taken_s > _PATIENCE_S:
            self._note_failure(self._flight.partition, self._unanswered())
        if not self._waiting:
            self._failed = False
        self._round += 1
        known = set(self._waiting)
        self._waiting += sorted(partition for partition in self.behind() if partition not in known)

    def go_on(self, wait_s: float) -> None:
        """Write on at what is due, waiting for storage so long at most.

        With no time to wait it still takes a few milliseconds, as long as storage takes each part at once: many
        small partitions would need as many turns.

        What storage does not take is counted, said once until it takes all again, and left for the next round.
        """
        until_s = time.monotonic() + max(wait_s, _TURN_S)
        # What has been on its way since a turn before is not written at once: none of the milliseconds are for it.
        sends = self._flight is None or self._arrived(wait_s)
        while sends and self._send_next():
            left_s = until_s - time.monotonic()
            sends = left_s > 0 and self._arrived(left_s)
        if not self.busy and not self._failed and self._failing_since_s is not None:
            logger.warning(
                "storage takes checkpoints again, after %.0f s", time.monotonic() - self._failing_since_s
            )
            self._failing_since_s = None

    def write_first(self, partition: TopicPartition, progress: Progress) -> None:
        """Write the checkpoint that a partition begins with; storage that has worked before may be away for now.

        Raises:
            TransientError: storage does not answer and never did.
            ConfigError: storage cannot be written, and never could.
        """
        wait_s = _PATIENCE_S if self._failing_since_s is None else _FAILING_PATIENCE_S
        if not self._storage_took_one:
            wait_s = _FIRST_PATIENCE_S
        until_s = time.monotonic() + wait_s
        try:
            if self._flight is not None and not self._arrived(wait_s):
                raise self._unanswered()
            # Nothing but its facts: one part.
            self._send(partition, progress)
            if not self._land(max(until_s - time.monotonic(), 0)):
                raise self._unanswered()
        except (TransientError, ConfigError) as error:
            if not self._storage_took_one:
                raise
            self._note_failure(partition, error)

    def _send_next(self) -> bool:
        """Fill and send the next part that is due, if one is."""
        while self._waiting:
            partition = self._waiting[0]
            progress = self._progress.get(partition)
            if progress is not None and progress.is_behind:
                self._send(partition, progress)
                return True
            # It was lost meanwhile, or it is written.
            self._waiting.pop(0)
        return False

    def _send(self, partition: TopicPartition, progress: Progress) -> None:
        """Fill a part with what has changed and send it on its way."""
        lane = self._lane_of[partition.topic]
        if progress.chain is None or (progress.chain.is_long and not self._last):
            progress.chain = Chain()
            lane.pipeline.begin_chain(partition)
        cut = lane.pipeline.cut(partition, self._memory, PART_BYTES)
        checkpoint = Checkpoint(
            stream=lane.name,
            partition=partition,
            topic_id=progress.topic_id,
            next_offset=progress.next_offset,
            model_version=self._version_of(partition),
            shape=lane.pipeline.shape,
        )
        part = Part(checkpoint, progress.chain, self._memory, cut.closes, cut.whole)
        self._flight = _Flight(partition, progress, part, cut, self._round)
        self._writer.begin(part)

    def _arrived(self, wait_s: float) -> bool:
        """See what became of the part on its way; return False where it is still there."""
        flight = self._flight
        assert flight is not None
        try:
            return self._land(wait_s)
        except (TransientError, ConfigError) as error:
            self._note_failure(flight.partition, error)
            self._strike_off(flight)
            return True

    def _land(self, wait_s: float) -> bool:
        """Note what became of the part on its way; raises as the writer does."""
        flight = self._flight
        assert flight is not None
        try:
            if not self._writer.finish(wait_s):
                return False
        except BaseException:
            self._flight = None
            self._lane_of[flight.partition.topic].pipeline.uncut(flight.partition, flight.cut)
            raise
        self._flight = None
        self._storage_took_one = True
        if flight.part.closes:
            # Of a state that was thrown away meanwhile nobody asks any more.
            flight.progress.checkpointed = flight.part.checkpoint.next_offset
            self._strike_off(flight)
        return True

    def _strike_off(self, flight: _Flight) -> None:
        """Have a partition wait no longer; behind all others where its part was sent before the round began.

        That may be older than what the round is to write, and where it failed, the round is another try. At the
        head it would keep the others from their turn for as long as storage takes longer than a round.
        """
        if flight.partition in self._waiting:
            self._waiting.remove(flight.partition)
            if flight.round != self._round:
                self._waiting.append(flight.partition)

    def _unanswered(self) -> TransientError:
        return TransientError(f"storage has not answered for {self._writer.taken_s:.0f} s")

    def _note_failure(self, partition: TopicPartition, error: Exception) -> None:
        """Count a checkpoint that storage did not take; say it once until it takes all again."""
        self._failed = True
        metrics.CHECKPOINTS_FAILED.labels(self._lane_of[partition.topic].name).inc()
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
            logger.error(
                "%s: no checkpoint: %s. Scoring goes on, and each is tried again when due; until then a restart "
                "replays from the ones before",
                *(partition, error),
                extra=about(partition, stream=self._lane_of[partition.topic].name),
            )
