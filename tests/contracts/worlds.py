"""A world for a test: a broker of one kind, two topics of the test's own, and what the test opens on them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import (
    KafkaCluster,
    KafkaFeedback,
    KafkaLog,
    KafkaPublisher,
    KafkaSource,
    KafkaTransactions,
    history,
)
from pipeline.connectors.memory import (
    MemoryBroker,
    MemoryFeedback,
    MemoryLog,
    MemoryPublisher,
    MemorySource,
    MemoryTransactions,
)
from pipeline.delivery import AtLeastOnce
from pipeline.feedback import FeedbackTopic
from pipeline.protocols import (
    Delivery,
    Log,
    Message,
    PartitionRecords,
    Publisher,
    RawRecord,
    Source,
    TopicPartition,
)

_DEADLINE_S = 40.0


@dataclass
class World:
    """A broker, whatever it is, with two topics of this test's own."""

    kind: str
    topic: str
    alerts: str
    source: Callable[[], Source]
    publisher: Callable[[], Publisher]
    transactions: Callable[[Any, str], Delivery]
    """(source, transactional id) -> exactly once."""
    published: Callable[[], Sequence[RawRecord]]
    """What a reader of `alerts` sees, who reads committed records only."""
    log: Log
    """Of `topic`."""
    followed: Callable[[], FeedbackTopic]
    """`topic`, read as that of feedback."""
    opened: list[Any] = field(default_factory=list)

    def new_source(self) -> Source:
        self.opened.append(self.source())
        source: Source = self.opened[-1]
        return source

    def new_publisher(self) -> Publisher:
        self.opened.append(self.publisher())
        publisher: Publisher = self.opened[-1]
        return publisher

    def new_delivery(self, way: str, source: Source, transactional_id: str = "replica-0") -> Delivery:
        if way == "exactly_once":
            made = self.transactions(source, f"{self.topic}/{transactional_id}")
            self.opened.append(made)
        else:
            made = AtLeastOnce(self.new_publisher(), source)
        made.settle()
        return made

    def produce(self, count: int, first: int = 0) -> None:
        publisher = self.new_publisher()
        for number in range(first, first + count):
            publisher.send(Message(self.topic, b"k%d" % (number % 5), b"v%d" % number, [("n", b"%d" % number)]))
        publisher.flush(20)

    def held(self) -> dict[int, list[Any]]:
        """Return what the topic's log holds, by partition."""
        found: dict[int, list[Any]] = {}
        for arrived in self.log.read():
            found.setdefault(arrived.partition.partition, []).extend(arrived.records)
        return found

    def read_all(self, count: int) -> list[Any]:
        """Read the topic's first records, from its one partition."""
        source = self.new_source()
        source.start(gain(source), 0)
        return read(source, count)

    def close(self) -> None:
        for opened in self.opened:
            opened.close()


def in_memory(unique: Callable[[str], str], partitions: int) -> World:
    broker, topic, alerts = MemoryBroker(), unique("in"), unique("alerts")
    broker.create_topic(topic, partitions)
    broker.create_topic(alerts, 1)
    return World(
        "twin",
        topic,
        alerts,
        lambda: MemorySource(broker, [topic], 100),
        lambda: MemoryPublisher(broker),
        lambda source, name: MemoryTransactions(broker, source, name),
        lambda: broker.records(alerts),
        MemoryLog(broker, topic),
        lambda: MemoryFeedback(broker, topic),
    )


def on_kafka(kind: str, address: str, unique: Callable[[str], str], partitions: int) -> World:
    connection, topic, alerts = Connection(address), unique("in"), unique("alerts")
    cluster = KafkaCluster(connection)
    cluster.create_topics({topic: partitions, alerts: 1})
    cluster.close()
    options = GroupOptions(unique("group"), session_timeout_s=6, max_poll_interval_s=6, max_poll_records=100)
    return World(
        kind,
        topic,
        alerts,
        lambda: KafkaSource(connection, options, [topic]),
        lambda: KafkaPublisher(connection, 15),
        lambda source, name: KafkaTransactions(connection, source, name, 15),
        lambda: [record for arrived in history(connection, alerts, 1000) for record in arrived.records],
        KafkaLog(connection, topic),
        lambda: KafkaFeedback(connection, topic),
    )


def gain(source: Source) -> TopicPartition:
    """Poll until the one partition is gained; nothing may be delivered before it is started."""
    (place,) = gain_all(source, 1)
    return place


def gain_all(source: Source, count: int) -> list[TopicPartition]:
    """Poll until so many partitions are gained; nothing may be delivered before they are started."""
    gained: set[TopicPartition] = set()
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        change = source.assignment()
        gained = (gained - change.lost) | change.gained
        if len(gained) >= count:
            return sorted(gained)
        assert not source.poll(0.2)
    raise AssertionError(f"{len(gained)} partitions were assigned, not {count}")


def read(source: Source, count: int) -> list[Any]:
    """Poll until so many records have come."""
    records: list[Any] = []
    deadline_s = time.monotonic() + _DEADLINE_S
    while len(records) < count and time.monotonic() < deadline_s:
        for arrived in source.poll(0.2):
            assert isinstance(arrived, PartitionRecords)
            assert arrived.next_offset == arrived.records[-1].offset + 1
            records += arrived.records
    return records


def poll_until(happened: Callable[[], bool], source: Source, *others: Source) -> None:
    """Poll members until something has happened: each of the others on a thread of its own, as in production.

    Polled in turn they hold one another's joining up, on the embedded broker for most of a minute.
    """
    deadline_s, over = time.monotonic() + _DEADLINE_S, threading.Event()

    def poll(other: Source) -> None:
        while not over.is_set():
            other.poll(0.1)

    with ThreadPoolExecutor(len(others) + 1) as pool:
        polling = [pool.submit(poll, other) for other in others]
        try:
            while not happened():
                assert time.monotonic() < deadline_s, "it did not happen in time"
                source.poll(0.1)
        finally:
            over.set()
        for ended in polling:
            ended.result()
