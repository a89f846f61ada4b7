"""One suite for `Source` and `Publisher`: on the twin, on the embedded broker, on Apache Kafka."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.connectors.memory import MemoryBroker, MemoryPublisher, MemorySource
from pipeline.errors import AssignmentLost, ConfigError, DeliveryError, OffkeyError, RecordError, TransientError
from pipeline.protocols import Message, PartitionRecords, Publisher, Source, TopicPartition

_DEADLINE_S = 40.0
# The embedded broker makes topics of any name, takes records of any size and commits of members that have left.
STRICT = pytest.mark.parametrize("world", ["twin", "apache"], indirect=True)


@dataclass
class World:
    """A broker, whatever it is, with two topics of this test's own."""

    kind: str
    topic: str
    alerts: str
    source: Callable[[], Source]
    publisher: Callable[[], Publisher]
    opened: list[Any] = field(default_factory=list)

    def new_source(self) -> Source:
        self.opened.append(self.source())
        source: Source = self.opened[-1]
        return source

    def new_publisher(self) -> Publisher:
        self.opened.append(self.publisher())
        publisher: Publisher = self.opened[-1]
        return publisher

    def produce(self, count: int, first: int = 0) -> None:
        publisher = self.new_publisher()
        for number in range(first, first + count):
            publisher.send(Message(self.topic, b"k%d" % (number % 5), b"v%d" % number, [("n", b"%d" % number)]))
        publisher.flush(20)


@pytest.fixture(params=["twin", "embedded", "apache"])
def world(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[World]:
    topic, alerts, group = unique("in"), unique("alerts"), unique("group")
    if request.param == "twin":
        broker = MemoryBroker()
        broker.create_topic(topic, 1)
        broker.create_topic(alerts, 1)
        made = World(
            "twin", topic, alerts, lambda: MemorySource(broker, [topic], 100), lambda: MemoryPublisher(broker)
        )
    else:
        connection = Connection(request.getfixturevalue(f"{request.param}_broker"))
        cluster = KafkaCluster(connection)
        cluster.create_topics({topic: 1, alerts: 1})
        cluster.close()
        options = GroupOptions(group, session_timeout_s=6, max_poll_interval_s=6, max_poll_records=100)
        made = World(
            request.param,
            topic,
            alerts,
            lambda: KafkaSource(connection, options, [topic]),
            lambda: KafkaPublisher(connection, 15),
        )
    yield made
    for opened in made.opened:
        opened.close()


def gain(source: Source) -> TopicPartition:
    """Poll until the one partition is gained; nothing may be delivered before it is started."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        for place in source.assignment().gained:
            return place
        assert not source.poll(0.2)
    raise AssertionError("no partition was assigned")


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


def publish(publisher: Publisher, message: Message) -> None:
    publisher.send(message)
    publisher.flush(20)


def test_records_come_in_order_and_unchanged(world: World) -> None:
    publisher = world.new_publisher()
    publisher.send(Message(world.topic, None, b"\xff\x00", [("h", b"\x01"), ("h", b"")]))
    publisher.send(Message(world.topic, b"key", None))
    publisher.flush(20)
    world.produce(250)
    source = world.new_source()
    place = gain(source)
    assert place == (world.topic, 0)
    assert source.committed(place) is None
    assert source.offsets(place).begin == 0
    source.start(place, 0)
    records = read(source, 252)
    assert [record.offset for record in records] == list(range(252))
    assert (records[0].key, records[0].value) == (None, b"\xff\x00")
    assert [tuple(header) for header in records[0].headers] == [("h", b"\x01"), ("h", b"")]
    assert (records[1].key, records[1].value) == (b"key", None)
    assert [record.value for record in records[2:]] == [b"v%d" % number for number in range(250)]
    assert source.lag()[place] == 0


def test_a_new_member_goes_on_at_the_committed_offset(world: World) -> None:
    world.produce(30)
    first = world.new_source()
    place = gain(first)
    first.start(place, 0)
    read(first, 30)
    first.commit({place: 12})
    first.close()
    second = world.new_source()
    place = gain(second)
    assert second.committed(place) == 12
    second.start(place, 12)
    assert read(second, 18)[0].offset == 12


def test_start_moves_a_running_partition(world: World) -> None:
    world.produce(20)
    source = world.new_source()
    place = gain(source)
    source.start(place, 15)
    assert [record.offset for record in read(source, 5)] == list(range(15, 20))
    source.start(place, 3)
    assert read(source, 17)[0].offset == 3


def test_a_partition_goes_to_the_member_that_stays(world: World) -> None:
    world.produce(10)
    first = world.new_source()
    gain(first)
    second = world.new_source()
    first.close()
    assert gain(second) == (world.topic, 0)


@STRICT
def test_committing_what_another_member_owns_is_told(world: World) -> None:
    world.produce(10)
    first = world.new_source()
    place = gain(first)
    first.start(place, 0)
    read(first, 10)
    if isinstance(first, KafkaSource):
        # Leave behind its back, as a broker does to a member that was silent for too long.
        first._consumer._coordinator.maybe_leave_group(reason="test")
    else:
        first.close()
    with pytest.raises((AssignmentLost, TransientError)):
        first.commit({place: 5})


def test_an_id_tells_a_topic_from_another(world: World) -> None:
    source = world.new_source()
    assert source.topic_id(world.topic)
    assert source.topic_id(world.topic) == world.new_source().topic_id(world.topic)


@STRICT
def test_a_topic_that_is_not_there_is_a_config_error(world: World) -> None:
    publisher = world.new_publisher()
    with pytest.raises((ConfigError, DeliveryError), match=r"is it there|is not there"):
        publish(publisher, Message("never-made", b"k", b"v"))


@STRICT
def test_a_record_too_large_for_its_topic_is_named(world: World) -> None:
    publisher = world.new_publisher()
    with pytest.raises(RecordError, match="in/0@7: 5000000 bytes are more than topic"):
        publish(publisher, Message(world.alerts, None, b"x" * 5_000_000, origin="in/0@7"))


def test_history_reads_what_is_there_and_ends(broker: str, unique: Callable[[str], str]) -> None:
    connection, topic = Connection(broker), unique("past")
    cluster = KafkaCluster(connection)
    cluster.create_topics({topic: 2})
    cluster.close()
    assert list(history(connection, topic, 100)) == []
    publisher = KafkaPublisher(connection)
    for number in range(500):
        publisher.send(Message(topic, b"k%d" % (number % 7), b"v%d" % number))
    publisher.flush(20)
    publisher.close()
    values = [record.value or b"" for arrived in history(connection, topic, 10_000) for record in arrived.records]
    assert sorted(values) == sorted(b"v%d" % number for number in range(500))


def test_history_takes_the_newest_records(apache_broker: str, unique: Callable[[str], str]) -> None:
    connection, topic = Connection(apache_broker), unique("past")
    cluster = KafkaCluster(connection)
    cluster.create_topics({topic: 1})
    cluster.close()
    publisher = KafkaPublisher(connection)
    for number in range(500):
        publisher.send(Message(topic, None, b"v%d" % number))
    publisher.flush(20)
    publisher.close()
    newest = [record.value for arrived in history(connection, topic, 100) for record in arrived.records]
    assert newest == [b"v%d" % number for number in range(400, 500)]


def test_a_broker_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(TransientError, match=r"Kafka at 127\.0\.0\.1:1: no answer"):
        KafkaCluster(Connection("127.0.0.1:1", connect_timeout_s=0.5))


def test_a_topic_that_is_not_there_is_named_before_subscribing(broker: str) -> None:
    with pytest.raises(OffkeyError, match="topic never-made is not there"):
        KafkaSource(Connection(broker), GroupOptions("g"), ["never-made"])
