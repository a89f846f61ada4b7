"""One suite for `AtomicPublisher` and `Log`: on the twins, on the embedded broker, on Apache Kafka."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaAtomicPublisher, KafkaCluster, KafkaLog
from pipeline.connectors.kafka_client import KafkaProducer
from pipeline.connectors.memory import MemoryAtomicPublisher, MemoryBroker, MemoryLog
from pipeline.errors import ConfigError, DeliveryError, OffkeyError, RecordError
from pipeline.protocols import AtomicPublisher, Log, Message, Placed


@dataclass
class Desk:
    """A topic of two partitions, and what the test opens on it."""

    topic: str
    name: str
    log: Log
    new: Callable[[], AtomicPublisher]
    opened: list[AtomicPublisher] = field(default_factory=list)

    def publisher(self) -> AtomicPublisher:
        self.opened.append(self.new())
        return self.opened[-1]

    def held(self) -> dict[int, list[Any]]:
        """Return what lies in each partition."""
        found: dict[int, list[Any]] = {0: [], 1: []}
        for arrived in self.log.read():
            found[arrived.partition.partition] += arrived.records
        return found

    def values(self) -> list[bytes]:
        return [record.value for records in self.held().values() for record in records]


@pytest.fixture(params=["twin", "embedded", "apache"])
def desk(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[Desk]:
    topic, name = unique("in"), unique("name")
    if request.param == "twin":
        broker = MemoryBroker()
        broker.create_topic(topic, 2)
        made = Desk(topic, name, MemoryLog(broker, topic), lambda: MemoryAtomicPublisher(broker, name))
    else:
        connection = Connection(request.getfixturevalue(f"{request.param}_broker"))
        cluster = KafkaCluster(connection)
        cluster.create_topics({topic: 2})
        cluster.close()
        made = Desk(topic, name, KafkaLog(connection, topic), lambda: KafkaAtomicPublisher(connection, name, 15))
    yield made
    for publisher in made.opened:
        publisher.close()


# The embedded broker is no judge of transactions, makes topics of any name and takes records of any size.
STRICT = pytest.mark.parametrize("desk", ["twin", "apache"], indirect=True)


def test_messages_lie_where_they_were_placed_as_they_were(desk: Desk) -> None:
    sent = [(None, b"\xff\x00"), (b"key", None), (b"", b""), (None, None), (None, b"")]
    publisher, headers = desk.publisher(), [("h", b"\x01"), ("h", b"")]
    for number, (key, value) in enumerate(sent):
        publisher.publish([Placed(Message(desk.topic, key, value, headers), 1, 1_700_000_000_000 + number)])
    publisher.publish([])
    held = desk.held()
    assert held[0] == []
    assert [(record.key, record.value) for record in held[1]] == sent
    assert [record.timestamp for record in held[1]] == [1_700_000_000_000 + number for number in range(len(sent))]
    assert all([tuple(header) for header in record.headers] == headers for record in held[1])


def test_without_a_partition_the_key_leads(desk: Desk) -> None:
    publisher = desk.publisher()
    for _ in range(3):
        publisher.publish([Placed(Message(desk.topic, b"k%d" % number, b"v"), None) for number in range(20)])
    held = {number: [record.key for record in records] for number, records in desk.held().items()}
    assert all(held.values())
    assert not set(held[0]) & set(held[1])


def test_a_log_is_read_whole_and_says_how_long_it_is(desk: Desk) -> None:
    assert desk.values() == []
    messages = [Placed(Message(desk.topic, None, b"%d" % number), number % 2) for number in range(1000)]
    desk.publisher().publish(messages)
    held = desk.held()
    assert [record.value for record in held[1]] == [b"%d" % number for number in range(1, 1000, 2)]
    assert len(held[0]) == 500


@STRICT
def test_a_log_says_about_how_long_it_is(desk: Desk) -> None:
    """Markers of transactions count too on a broker; the embedded one calls the start of its last batch the end."""
    assert desk.log.retained() == 0
    desk.publisher().publish([Placed(Message(desk.topic, None, b""), number % 2) for number in range(100)])
    assert 100 <= desk.log.retained() <= 102


@STRICT
@pytest.mark.parametrize(
    ("spoilt", "error", "said"),
    [
        (Message("never-made", None, b"x"), ConfigError, "topic never-made is not there"),
        (Message("", None, b"x" * 5_000_000, origin="in/0@7"), RecordError, "in/0@7: 5000000 bytes are more than"),
    ],
)
def test_where_one_is_refused_none_is_there(
    desk: Desk, spoilt: Message, error: type[OffkeyError], said: str
) -> None:
    message = Message(spoilt.topic or desk.topic, None, spoilt.value, origin=spoilt.origin)
    messages = [Placed(Message(desk.topic, None, b"good"), 0), Placed(message, 0)]
    messages.append(Placed(Message(desk.topic, None, b"behind"), 0))
    with pytest.raises(error, match=said):
        desk.publisher().publish(messages)
    again = desk.publisher()
    again.publish([Placed(Message(desk.topic, None, b"later"), 0)])
    assert desk.values() == [b"later"]


@STRICT
def test_the_older_of_two_can_publish_nothing(desk: Desk) -> None:
    first = desk.publisher()
    first.publish([Placed(Message(desk.topic, None, b"1"), 0)])
    second = desk.publisher()
    with pytest.raises(DeliveryError, match="another process has its name"):
        first.publish([Placed(Message(desk.topic, None, b"2"), 0)])
    second.publish([Placed(Message(desk.topic, None, b"3"), 0)])
    assert desk.values() == [b"1", b"3"]


def test_what_lies_behind_an_open_transaction_is_waited_for(
    apache_broker: str, unique: Callable[[str], str]
) -> None:
    """A mark behind a worker's transaction must not be missed: its letters would be sent twice."""
    connection, topic = Connection(apache_broker), unique("dead")
    cluster = KafkaCluster(connection)
    cluster.create_topics({topic: 1})
    cluster.close()
    worker = KafkaProducer(
        **connection.options(), transactional_id=unique("worker"), transaction_timeout_ms=3_000, acks="all"
    )
    worker.init_transactions()
    worker.begin_transaction()
    worker.send(topic, value=b"open", partition=0).get(timeout=10)
    publisher = KafkaAtomicPublisher(connection, unique("replay"))
    publisher.publish([Placed(Message(topic, None, b"behind"), 0)])
    publisher.close()
    values = [record.value for arrived in KafkaLog(connection, topic).read() for record in arrived.records]
    worker._sender.force_close()
    worker.close(timeout=5)
    assert values == [b"behind"]


def test_a_broker_that_is_away_is_named() -> None:
    with pytest.raises(OffkeyError, match=r"Kafka at 127\.0\.0\.1:1: no answer"):
        KafkaAtomicPublisher(Connection("127.0.0.1:1", connect_timeout_s=0.5), "name")
