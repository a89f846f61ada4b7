"""A worker's loop over polls that are made up, one after the other, by a clock of its own."""

import time
from collections.abc import Iterator, Sequence

from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.rehearsed import Payload, RehearsedDelivery, RehearsedSource, RehearsedStorage
from pipeline.jobs.sizing_records import MadeUp
from pipeline.protocols import TopicPartition
from pipeline.stream import Lane
from pipeline.worker import Worker, WorkerOptions


class Loop:
    """A worker over polls that are prepared, whose checkpoints go nowhere."""

    def __init__(self, lane: Lane, place: TopicPartition, checkpoint_every_s: float) -> None:
        self.lane, self._place, self._clock, self._every_s = lane, place, _Clock(), checkpoint_every_s
        self._source = RehearsedSource(place)
        options = WorkerOptions("alerts", "dead", poll_timeout_s=0.01, checkpoint_every_s=checkpoint_every_s)
        storage = RehearsedStorage()
        checkpoints, adoptions = StoredCheckpoints(storage), StoredAdoptions(storage)
        delivery = self._delivery = RehearsedDelivery()
        self._worker = Worker([lane], self._source, delivery, checkpoints, adoptions, options, clock=self._clock)
        self._worker.step()

    def take(self, polls: Iterator[Sequence[Payload]], count: int) -> None:
        """Take so many polls."""
        for _ in range(count):
            self.timed(polls, 1)

    def timed(self, polls: Iterator[Sequence[Payload]], count: int, rest_s: float = 0.0) -> tuple[float, int]:
        """Take so many polls, with a rest before each; return (the processor's time for them, their bytes)."""
        size = sum(self._source.prepare(next(polls)) for _ in range(count))
        taken_s = 0.0
        for _ in range(count):
            if rest_s:
                time.sleep(rest_s)
            began_s = time.process_time()
            self._worker.step()
            taken_s += time.process_time() - began_s
        assert not self._delivery.sent, "a made-up record was rejected, or raised an alarm"
        return taken_s, size

    def checkpoint(self) -> float:
        """Have one written; return the processor's time."""
        progress = self._worker.partitions.progress[self._place]
        self._clock.now_s += self._every_s
        began_s = time.process_time()
        while progress.checkpointed < progress.next_offset:
            self._worker.step()
        return time.process_time() - began_s


class Polls:
    """The points of so many series in turn, from a point of time on."""

    def __init__(self, made: MadeUp, series: int, point: int) -> None:
        self._made, self._series, self._point, self._next = made, series, point, 0

    def of(self, points: int) -> Iterator[list[Payload]]:
        """Yield polls of so many points."""
        while True:
            found: list[Payload] = []
            left = points
            while left:
                high = min(self._next + left, self._series)
                found += self._made.payloads(self._point, self._next, high)
                left -= high - self._next
                self._next = high % self._series
                self._point += self._next == 0
            yield found


class _Clock:
    """Stands still between two looks."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
