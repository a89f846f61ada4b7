"""Dead letters as a worker makes them, in memory, for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.connectors.memory import MemoryBroker, MemoryLog, MemoryRecord, MemoryTransactions
from pipeline.letters.replay import Plan, Repairs, Sent, plan, replay
from pipeline.letters.tally import Kind, Tally, tally
from pipeline.protocols import Delivery, Message, PartitionRecords, TopicPartition
from pipeline.stages import dead_letters
from pipeline.stages.decode import Reject

TOPIC = "dead"
BEGIN_MS = 1_700_000_000_000


def rejected(
    offset: int,
    *,
    topic: str = "metrics",
    partition: int = 0,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Sequence[tuple[str, bytes]] = (),
    reason: str = "not_json",
    text: str = "broken",
) -> Message:
    """Return the letter of one rejected record."""
    record = MemoryRecord(offset, BEGIN_MS, key, value, headers)
    place = TopicPartition(topic, partition)
    return dead_letters.message(Reject(place, record, 0, reason, text), TOPIC)


def unread(_: Any) -> None:
    """Take progress that nobody looks at."""


@dataclass
class Desk:
    """A broker with input topics and a dead-letter topic of two partitions."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    make_topics: bool = True

    def __post_init__(self) -> None:
        for topic, partitions in (("metrics", 3), ("payments", 1), (TOPIC, 2)) if self.make_topics else ():
            self.broker.create_topic(topic, partitions)

    @property
    def log(self) -> MemoryLog:
        return MemoryLog(self.broker, TOPIC)

    def write(self, message: Message, partition: int = 0, timestamp: int = BEGIN_MS) -> None:
        self.broker.append(
            TOPIC,
            message.value,
            key=message.key,
            headers=message.headers,
            partition=partition,
            timestamp=timestamp,
        )

    def count(self) -> Tally:
        return tally(self.log, unread)

    def plan(self, stream: str | None = None, reason: str | None = None, repairs: Repairs | None = None) -> Plan:
        def wanted(kind: Kind) -> bool:
            return stream in (None, kind.topic) and reason in (None, kind.reason)

        return plan(self.log, wanted, unread, repairs)

    def replay(self, delivery: Delivery | None = None, most_letters: int = 500, **what: Any) -> Sent:
        """Begin as the command does: settled first, then counted."""
        own = delivery or self.delivery()
        own.settle()
        planned = self.plan(**what)
        partitions = {topic: len(logs) for topic, logs in self.broker.topics.items()}
        return replay(self.log, own, planned, TOPIC, partitions, ["payments"], unread, 20, most_letters)

    def delivery(self) -> MemoryTransactions:
        return MemoryTransactions(self.broker, None, "replay")

    def records(self, topic: str, partition: int) -> Sequence[MemoryRecord]:
        return self.broker.topics[topic][partition]

    def reject_again(self, topic: str, partition: int, offset: int, reason: str = "not_json") -> None:
        """Do as a worker does with a record that it cannot decode."""
        place = TopicPartition(topic, partition)
        arrived = PartitionRecords(place, [self.records(topic, partition)[offset]])
        self.write(dead_letters.message(Reject(place, arrived.records[0], 0, reason, "still broken"), TOPIC))
