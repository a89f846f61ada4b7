"""One receiver of alerts: alerts topic -> requests -> commit; a consumer group for each receiver.

A group of its own is what keeps receivers apart: what is committed there was taken by this receiver, or is a dead
letter, and one that hangs for a day holds back no offset but its own. What holds after each step of a turn, and so
what a crash right after it costs:

1. Alerts are polled: they are read again.
2. The receiver is told, in the order of each partition: it is told again, of what one turn takes at most.
3. What it refuses for good is a dead letter: there may be two of it.
4. The offsets are committed: nothing is told again.

While a receiver does not take what it is sent, its partitions are paused, which keeps the group waiting for nobody:
memory holds one poll at most, and the topic the rest. Tries are farther and farther apart, by a wait drawn at
random so that those who failed together do not come back together, and never earlier than the receiver asks for. A
single alert that is never taken, for it breaks the receiver itself, would hold up all behind it for good: after
`retry_for_s` it is a dead letter and the next one has its turn. So an outage of hours costs one alert an hour at
most.

A new receiver begins with what comes after its first start, unless `start` says otherwise: nobody wants a week of
old incidents in a chat. Later it goes on where it was; offsets that have expired meanwhile are told and counted,
and it goes on with the first alert that there is.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline import metrics
from pipeline.errors import AssignmentLost, ReceiverAway, TransientError
from pipeline.logs import about
from pipeline.patience import Patience
from pipeline.protocols import Delivery, PartitionRecords, RawRecord, Source, TopicPartition
from pipeline.receivers.told import Receiver, Told
from pipeline.stages.alerts import Alert, alert_of
from pipeline.stages.dead_letters import UndeliveredReason, undelivered
from pipeline.stages.decode import MAX_TIME_MS
from pipeline.stopping import Stop

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
"""Between two tries of a receiver that does not take an alert."""
_NAP_S = 0.2
"""Between two turns in which there is nothing to do but to stay in the group."""
_QUIET_S = 3.0
"""So long a partition brings nothing where what it holds is taken for read: what ends it may be no record."""


@dataclass(frozen=True, slots=True)
class NotifierOptions:
    """How patient it is."""

    dead_letters: str
    """The topic of what a receiver was not told of."""
    start: Literal["latest", "earliest"] = "latest"
    retry_for_s: float = 3600.0
    turn_s: float = 1.0
    """So long one turn sends, and the request under way longer; as much may be told again after a crash."""
    poll_timeout_s: float = 0.2
    delivery_timeout_s: float = 30.0
    """Of dead letters."""
    retry_deadline_s: float = 60.0
    """How long the broker may be away."""


@dataclass(slots=True)
class _Partition:
    """One partition as far as the receiver is told of it."""

    owed_from: int | None
    """First offset that it is to be told of; None: what follows all that the topic holds at the start."""
    position: int
    """Next to read."""
    since_s: float
    """Since when nothing has come."""
    done: int | None = None
    """Next to tell, where that is not committed yet."""
    whole: bool = False
    """Whether all before `owed_from` is read."""


@dataclass
class Notifier:
    """Tells one receiver. Everything happens on the thread that calls `run`."""

    name: str
    topic: str
    source: Source
    delivery: Delivery
    receiver: Receiver
    settings: NotifierOptions
    now_ms: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """Draws from 0 to 1."""
    turned_s: float | None = field(default=None, init=False)
    """When the loop last came round, by `clock`; None before its first turn."""
    joined: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._gained: set[TopicPartition] = set()
        self._waiting: deque[tuple[TopicPartition, RawRecord, Alert | None]] = deque()
        self._held_back = False
        self._due_s = self._resend_due_s = self.clock()
        self._wait_s = _FIRST_WAIT_S
        self._tried_since_s: float | None = None
        self._away = self._broker_away = ""
        self._stop = Stop()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def trouble(self) -> str:
        """What makes it try again just now."""
        return self._broker_away or self._away

    def missing(self) -> Iterator[str]:
        """Yield what keeps it from telling; may be asked on another thread."""
        for place in sorted(self._gained.copy()):
            yield f"{place}: it is not taken over yet"
        for place, partition in sorted(self._partitions.copy().items()):
            if not partition.whole:
                yield f"{place}: what is open is still being read"

    def run(self, stop: Stop) -> None:
        """Tell until `stop` is set.

        Raises:
            TransientError: the broker stayed away for longer than `retry_deadline_s`.
            ConfigError: a topic or a right is missing.
        """
        patience = Patience(self.settings.retry_deadline_s, self.clock)
        self._stop = stop
        while not stop.is_set():
            self.turned_s = self.clock()
            try:
                self.step()
                self._broker_away = ""
                patience.renew()
            except TransientError as error:
                self._broker_away = str(error)
                patience.wait(error, stop)
            if self._waiting:
                stop.wait(min(max(self._due_s - self.clock(), 0.0), _NAP_S))

    def step(self) -> None:
        """Take one poll, tell what is due, and commit.

        Raises:
            TransientError: the broker failed; the next step goes on.
        """
        joined = self.source.joined()
        self._follow_assignment()
        self.joined = joined
        self._read()
        try:
            self._tell()
            self._commit()
        except AssignmentLost:
            self._begin_anew()
            # Only a poll joins the group again.
            self.source.poll(0)
            raise
        except TransientError:
            # Dead letters may be lost, and with them what they stand for.
            self._begin_anew()
            raise
        self._resend()
        self._report()

    def _follow_assignment(self) -> None:
        change = self.source.assignment()
        self._forget(change.lost | change.gained)
        self._gained = (self._gained - change.lost) | change.gained
        for place in sorted(self._gained):
            self._partitions[place] = self._begun(place)
            self._gained.discard(place)
            self.source.start(place, self._partitions[place].position)

    def _begin_anew(self) -> None:
        """Go back to what is committed."""
        self._gained |= set(self._partitions)
        self._forget(self._gained)

    def _forget(self, places: Iterable[TopicPartition]) -> None:
        gone = set(places)
        for place in gone:
            self._partitions.pop(place, None)
            self.receiver.forget(place)
        if gone:
            self._tried_since_s = None
            self._waiting = deque(each for each in self._waiting if each[0] not in gone)

    def _begun(self, place: TopicPartition) -> _Partition:
        """Say where a partition begins."""
        committed, held = self.source.committed(place), self.source.offsets(place)
        follows, now_s = self.receiver.resend_s is not None, self.clock()
        owed_from: int | None = held.begin
        if committed is not None and held.begin <= committed <= held.end:
            owed_from = committed
        elif committed is not None:
            lost = max(held.begin - committed, 0)
            metrics.NOTIFY_OFFSETS_LOST.labels(self.name).inc(lost)
            logger.error(
                "receiver %s: the topic holds no offset %d of %s any more, or was made anew; %d alerts were not "
                "told, and the first is now %d",
                *(self.name, committed, place, lost, held.begin),
                extra=about(place, receiver=self.name, offset=held.begin),
            )
        elif self.settings.start == "latest" and not self._has_begun():
            owed_from = None if follows else held.end
        position = held.begin if follows or owed_from is None else owed_from
        begun = _Partition(owed_from, position, now_s)
        begun.whole = owed_from is not None and position >= owed_from
        if begun.whole and committed is None:
            # So that a restart tells of what comes from here on.
            begun.done = position
        return begun

    def _has_begun(self) -> bool:
        """Say whether the group was here before: of a partition added since, the first alert is told too."""
        numbers = range(self.source.partition_count(self.topic))
        return any(self.source.committed(TopicPartition(self.topic, number)) is not None for number in numbers)

    def _read(self) -> None:
        """Take a poll; while alerts wait, only stay in the group."""
        if self._waiting:
            # Each time: a rebalance may have started them again.
            for place in self._partitions:
                self.source.pause(place)
            self._held_back = True
        elif self._held_back:
            for place, partition in self._partitions.items():
                self.source.start(place, partition.position)
                partition.since_s = self.clock()
            self._held_back = False
        polled = self.source.poll(0 if self._waiting else self.settings.poll_timeout_s)
        for records in polled:
            if records.partition in self._partitions:
                self._take(records)
        for place, partition in self._partitions.items():
            if not (partition.whole or self._waiting):
                self._look_whether_whole(place, partition)

    def _take(self, records: PartitionRecords) -> None:
        place, partition = records.partition, self._partitions[records.partition]
        for record in records.records:
            alert = _alert_of(record)
            owed = partition.owed_from is not None and record.offset >= partition.owed_from
            if owed and not partition.whole:
                self._settle(place, partition)
            if alert is not None and self.receiver.resend_s is not None:
                self.receiver.note(Told(place, record, alert))
            if owed:
                self._waiting.append((place, record, alert))
        partition.position, partition.since_s = records.next_offset, self.clock()

    def _look_whether_whole(self, place: TopicPartition, partition: _Partition) -> None:
        if partition.owed_from is not None and partition.position >= partition.owed_from:
            self._settle(place, partition)
        elif self.clock() - partition.since_s >= _QUIET_S:
            # Nothing comes: because there is nothing, or because the broker is away, which this tells.
            self.source.offsets(place)
            if partition.owed_from is None:
                partition.owed_from = partition.done = partition.position
            self._settle(place, partition)

    def _settle(self, place: TopicPartition, partition: _Partition) -> None:
        """All that need not be told is read: from here on what is open is told."""
        partition.whole = True
        self.receiver.settle(place)
        self._resend_due_s = self.clock()

    def _tell(self) -> None:
        """Tell the receiver what waits, as far as it takes it, for the time of one turn."""
        end_s = self.clock() + self.settings.turn_s
        while self._waiting and self._due_s <= self.clock() < end_s and not self._stop.is_set():
            batch = self._next()
            if not batch:
                self._through(1, {0: ("unreadable", "")})
                continue
            try:
                refused = self.receiver.send(batch)
            except ReceiverAway as error:
                self._give_up_if_tried_for_long(error)
                self._postpone(error)
                return
            self._took()
            self._through(len(batch), {index: ("refused", why) for index, why in refused.items()})

    def _next(self) -> list[Told]:
        """Return the alerts that are to be told next, as one call of `send`."""
        batch: list[Told] = []
        for place, record, alert in self._waiting:
            if alert is None or len(batch) == self.receiver.at_once:
                break
            batch.append(Told(place, record, alert))
        return batch

    def _through(self, count: int, failed: dict[int, tuple[UndeliveredReason, str]]) -> None:
        """Have done with what waits first; what failed becomes a dead letter."""
        for index in range(count):
            place, record, alert = self._waiting.popleft()
            reason, text = failed.get(index, (None, ""))
            if reason is not None:
                logger.warning(
                    "receiver %s: %s@%d becomes a dead letter: %s",
                    *(self.name, place, record.offset, text or reason),
                    extra=self._about(place, record, alert),
                )
                self.delivery.send(undelivered(place, record, self.name, reason, text, self.settings.dead_letters))
            metrics.NOTIFY_ALERTS.labels(self.name, reason or "delivered").inc()
            self._partitions[place].done = record.offset + 1
        self._tried_since_s = None

    def _about(self, place: TopicPartition, record: RawRecord, alert: Alert | None) -> dict[str, Any]:
        """Return what a line on one alert is about."""
        stream = {} if alert is None else {"stream": alert.stream}
        return about(place, receiver=self.name, offset=record.offset, **stream)

    def _took(self) -> None:
        if self._away:
            logger.info("receiver %s: takes alerts again", self.name, extra=about(receiver=self.name))
        self._away, self._wait_s = "", _FIRST_WAIT_S
        metrics.NOTIFY_LAST_SUCCESS.labels(self.name).set(self.now_ms() / 1000)

    def _give_up_if_tried_for_long(self, error: ReceiverAway) -> None:
        """Let the next alert have its turn; what an Alertmanager was not told of it is told again anyway."""
        now_s = self.clock()
        self._tried_since_s = now_s if self._tried_since_s is None else self._tried_since_s
        if self.receiver.resend_s is None and now_s - self._tried_since_s > self.settings.retry_for_s:
            self._through(1, {0: ("given_up", str(error))})

    def _postpone(self, error: ReceiverAway) -> None:
        # Between half of the wait and all of it, and no earlier than is asked for.
        wait_s = max(self._wait_s * (1 + self.jitter()) / 2, error.retry_after_s or 0.0)
        self._due_s = self.clock() + wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        if str(error) != self._away:
            said = self._about(*self._waiting[0]) if self._waiting else about(receiver=self.name)
            logger.error("receiver %s: %s; tried again, nothing is lost meanwhile", self.name, error, extra=said)
        self._away = str(error)

    def _commit(self) -> None:
        ends = {
            place: partition.done for place, partition in self._partitions.items() if partition.done is not None
        }
        if not ends:
            return
        self.delivery.settle()
        self.delivery.finish(ends, self.settings.delivery_timeout_s)
        for place in ends:
            self._partitions[place].done = None

    def _resend(self) -> None:
        """Tell again of what is open, when it is time."""
        every_s, now_s = self.receiver.resend_s, self.clock()
        if every_s is None or now_s < max(self._resend_due_s, self._due_s) or self._waiting:
            return
        places = [place for place, partition in self._partitions.items() if partition.whole]
        try:
            self.receiver.resend(places)
        except ReceiverAway as error:
            self._postpone(error)
            return
        if self.receiver.open():
            self._took()
        self._resend_due_s = now_s + every_s

    def _report(self) -> None:
        metrics.NOTIFY_WAITING.labels(self.name).set(len(self._waiting))
        metrics.NOTIFY_LAG_RECORDS.labels(self.name).set(sum(self.source.lag().values()))
        if self.receiver.resend_s is not None:
            metrics.NOTIFY_INCIDENTS_OPEN.labels(self.name).set(self.receiver.open())


def _alert_of(record: RawRecord) -> Alert | None:
    alert = alert_of(record.value)
    if alert is None or not (0 <= alert.opened_ms <= MAX_TIME_MS and 0 <= alert.event_ms <= MAX_TIME_MS):
        return None
    return alert
