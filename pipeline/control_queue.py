"""The control topic as a queue: who owns it, the requests that wait, and how far they are committed."""

import logging
from collections.abc import Container
from dataclasses import dataclass

from pipeline import metrics
from pipeline.control import Request, Unreadable, request_of
from pipeline.logs import about
from pipeline.protocols import RawRecord, Source, TopicPartition

logger = logging.getLogger(__name__)


@dataclass
class _Waiting:
    request: Request
    offset: int
    taken: bool = False
    """Whether a training that runs, or is tried again, is for it."""


class ControlQueue:
    """Requests of the one partition of the control topic; one for a stream stands for all that wait for it."""

    def __init__(self, source: Source, topic: str, streams: Container[str]) -> None:
        self._source, self._streams = source, streams
        self._place = TopicPartition(topic, 0)
        self.owned = False
        """Whether the partition is ours, as far as we know."""
        self.term = 0
        """How often it has become ours."""
        self._gained = False
        self._position = self._committed = 0
        self._waiting: list[_Waiting] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def follow_assignment(self, *, keep: bool = False) -> None:
        """Take the partition over, or let it go, as the group has it.

        `keep`: where it was dealt anew, and to us again, it is still ours, and what waits goes on waiting.

        Raises:
            TransientError: the broker does not answer; the partition is not ours until it has, but by `keep`.
        """
        change = self._source.assignment()
        if self._place in change.lost | change.gained:
            self._gained = self._place in change.gained
        if self._place in change.lost or (self._gained and not keep):
            self.forget()
        if not (self._gained and self._source.joined()):
            return
        if not (self.owned and self._is_held()):
            self.forget()
            self._begin()
            self.owned = True
            self.term += 1
        self._source.start(self._place, self._position)
        self._gained = False

    def gain_anew(self) -> None:
        """Own it no more until the group counts us in again.

        A client that finds its coordinator again, and is still a member, tells of nothing gained.
        """
        self.forget()
        self._gained = True

    def forget(self) -> None:
        """Own it no more; what waits is read again by who owns it next."""
        self.owned = False
        self._waiting = []

    def read(self, timeout_s: float) -> None:
        """Take what has arrived; what is no request for a stream of ours is logged, counted, and passed over.

        Raises:
            TransientError: the broker does not answer.
        """
        for records in self._source.poll(timeout_s):
            if self.owned and records.partition == self._place:
                for record in records.records:
                    self._take(record)
                self._position = records.next_offset

    def requested(self) -> list[str]:
        """Return the streams that requests wait for, each once, in their order."""
        return list(dict.fromkeys(each.request.stream for each in self._waiting))

    def take(self, stream: str) -> None:
        """Note that a training begins for all requests of this stream so far; later ones ask for another."""
        for each in self._waiting:
            each.taken = each.taken or each.request.stream == stream

    def done(self, stream: str) -> None:
        """Forget the requests that the stream's last training was for."""
        self._waiting = [each for each in self._waiting if not (each.taken and each.request.stream == stream)]

    def commit(self, *, always: bool = False) -> None:
        """Commit what is done, as far as nothing before it waits.

        `always`: even if nothing is new, for the group takes a commit from its member alone.

        Raises:
            AssignmentLost: the partition is not ours.
            TransientError: the broker does not answer.
        """
        done = min((each.offset for each in self._waiting), default=self._position)
        if self.owned and (always or done != self._committed):
            self._source.commit({self._place: done})
            self._committed = done

    def _is_held(self) -> bool:
        """Say whether the broker holds what is to be read next."""
        held = self._source.offsets(self._place)
        return held.begin <= self._position <= held.end

    def _begin(self) -> None:
        """Read from the committed offset on, or from the first where that is none of the topic's."""
        committed, held = self._source.committed(self._place), self._source.offsets(self._place)
        begin = held.begin if committed is None else committed
        if not held.begin <= begin <= held.end:
            logger.warning(
                "topic %s: requests before offset %d are gone, or the topic was made anew; reading from there",
                *(self._place.topic, held.begin),
                extra=about(self._place, offset=held.begin),
            )
            begin = held.begin
        self._position = self._committed = begin

    def _take(self, record: RawRecord) -> None:
        place, said = f"{self._place.topic}/0@{record.offset}", about(self._place, offset=record.offset)
        try:
            request = request_of(record.value)
        except Unreadable as error:
            metrics.RETRAIN_REQUESTS.labels("unreadable").inc()
            logger.warning("%s: %s; it is passed over", place, error, extra=said)
            return
        if request.stream not in self._streams:
            metrics.RETRAIN_REQUESTS.labels("unknown").inc()
            logger.warning("%s: there is no stream %r; it is passed over", place, request.stream[:200], extra=said)
            return
        metrics.RETRAIN_REQUESTS.labels("taken").inc()
        logger.info(
            "%s: %s asks for a training of stream %s",
            *(place, request.by or "somebody", request.stream),
            extra=about(self._place, offset=record.offset, stream=request.stream),
        )
        self._waiting.append(_Waiting(request, record.offset))
