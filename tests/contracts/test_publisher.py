"""One suite for `Publisher`: on the twin, on the embedded broker, on Apache Kafka."""

from typing import Any

import pytest

from pipeline.errors import ConfigError, RecordError
from pipeline.protocols import Message, Publisher
from tests.contracts.worlds import World

# The embedded broker makes topics of any name and takes records of any size.
STRICT = pytest.mark.parametrize("world", ["twin", "apache"], indirect=True)


def publish(publisher: Publisher, message: Message) -> None:
    publisher.send(message)
    publisher.flush(20)


def test_messages_keep_their_order(world: World) -> None:
    world.produce(300)
    assert [record.value for record in world.read_all(300)] == [b"v%d" % number for number in range(300)]


def test_nulls_and_empty_bytes_stay_what_they_are(world: World) -> None:
    sent = [(None, b"\xff\x00"), (b"key", None), (b"", b""), (None, None), (None, b"")]
    publisher = world.new_publisher()
    for key, value in sent:
        publish(publisher, Message(world.topic, key, value, [("h", b"\x01"), ("h", b"")]))
    records = world.read_all(len(sent))
    assert [(record.key, record.value) for record in records] == sent
    for record in records:
        assert [tuple(header) for header in record.headers] == [("h", b"\x01"), ("h", b"")]


@pytest.mark.parametrize("world", ["embedded", "apache"], indirect=True)
def test_a_header_without_a_value_goes_out_empty(world: World) -> None:
    """Other producers write such headers, and a dead letter keeps the headers of its record."""
    without: list[tuple[str, Any]] = [("h", None)]
    publish(world.new_publisher(), Message(world.topic, None, b"v", without))
    (record,) = world.read_all(1)
    assert [tuple(header) for header in record.headers] == [("h", b"")]


def test_messages_lie_where_they_were_placed(wide_world: World) -> None:
    publisher, begin_ms = wide_world.new_publisher(), 1_700_000_000_000
    for number in range(4):
        key, place = b"%d" % number, number % 2
        publish(publisher, Message(wide_world.topic, key, b"v", partition=place, timestamp_ms=begin_ms + number))
    assert {place: [(each.key, each.timestamp) for each in held] for place, held in wide_world.held().items()} == {
        0: [(b"0", begin_ms), (b"2", begin_ms + 2)],
        1: [(b"1", begin_ms + 1), (b"3", begin_ms + 3)],
    }


def test_without_a_partition_the_key_leads(wide_world: World) -> None:
    publisher = wide_world.new_publisher()
    for number in range(60):
        publisher.send(Message(wide_world.topic, b"k%d" % (number % 20), b"v"))
    publisher.flush(20)
    first, second = ({record.key for record in held} for held in wide_world.held().values())
    assert len(first) + len(second) == 20


def test_a_flush_with_nothing_sent_returns(world: World) -> None:
    world.new_publisher().flush(1)


@STRICT
def test_a_topic_that_is_not_there_is_a_config_error(world: World) -> None:
    with pytest.raises(ConfigError, match="topic never-made is not there"):
        publish(world.new_publisher(), Message("never-made", b"k", b"v"))


@STRICT
def test_a_record_too_large_for_its_topic_is_named(world: World) -> None:
    publisher = world.new_publisher()
    with pytest.raises(RecordError, match="in/0@7: 5000000 bytes are more than topic"):
        publish(publisher, Message(world.alerts, None, b"x" * 5_000_000, origin="in/0@7"))
    publish(publisher, Message(world.topic, b"k", b"the next one"))
    assert [record.value for record in world.read_all(1)] == [b"the next one"]
