"""One suite for `Log`: on the twin, on the embedded broker, on Apache Kafka."""

from collections.abc import Callable
from contextlib import closing

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaTransactions
from pipeline.connectors.kafka_client import KafkaProducer
from pipeline.protocols import Message
from tests.contracts.worlds import World


def fill(world: World, count: int) -> None:
    publisher = world.new_publisher()
    for number in range(count):
        publisher.send(Message(world.topic, None, b"%d" % number, partition=number % 2))
    publisher.flush(20)


def test_an_empty_topic_holds_nothing(wide_world: World) -> None:
    assert wide_world.held() == {}


def test_it_is_read_whole_and_again_from_its_beginning(wide_world: World) -> None:
    fill(wide_world, 1000)
    for _ in range(2):
        held = wide_world.held()
        assert [record.value for record in held[0]] == [b"%d" % number for number in range(0, 1000, 2)]
        assert [record.value for record in held[1]] == [b"%d" % number for number in range(1, 1000, 2)]


@pytest.mark.parametrize("wide_world", ["twin", "apache"], indirect=True)
def test_it_says_how_long_it_is(wide_world: World) -> None:
    """The embedded broker calls the start of its last batch the end."""
    assert wide_world.log.retained() == 0
    fill(wide_world, 100)
    assert wide_world.log.retained() == 100


def test_what_lies_behind_an_open_transaction_is_waited_for(
    apache_broker: str, unique: Callable[[str], str]
) -> None:
    """A mark behind a worker's transaction must not be missed: its letters would be sent twice."""
    connection, topic = Connection(apache_broker), unique("dead")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    worker = KafkaProducer(
        **connection.options(), transactional_id=unique("worker"), transaction_timeout_ms=3_000, acks="all"
    )
    worker.init_transactions()
    worker.begin_transaction()
    worker.send(topic, value=b"open", partition=0).get(timeout=10)
    with closing(KafkaTransactions(connection, None, unique("replay"))) as replay:
        replay.settle()
        replay.send(Message(topic, None, b"behind"))
        replay.finish({}, 20)
    values = [record.value for arrived in KafkaLog(connection, topic).read() for record in arrived.records]
    worker._sender.force_close()
    worker.close(timeout=5)
    assert values == [b"behind"]
