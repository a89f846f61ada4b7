"""One suite for `Delivery`, on the twin and on Apache Kafka: the embedded broker is no judge of transactions."""

from collections.abc import Mapping, Sequence

import pytest

from pipeline.errors import AssignmentLost, ConfigError, RecordError
from pipeline.protocols import Delivery, Message, Source, TopicPartition
from tests.contracts.worlds import World, gain

ON_BOTH = pytest.mark.parametrize("world", ["twin", "apache"], indirect=True)
EITHER_WAY = pytest.mark.parametrize("way", ["at_least_once", "exactly_once"])
pytestmark = ON_BOTH


def begun(world: World, way: str) -> tuple[Source, TopicPartition, Delivery]:
    """Return a member that owns the topic's one partition, and its delivery."""
    # A member that joins before its broker knows of the topic is assigned nothing for a while.
    world.produce(1)
    source = world.new_source()
    place = gain(source)
    source.start(place, 0)
    source.commit({place: 0})
    return source, place, world.new_delivery(way, source)


def alert(world: World, text: bytes) -> Message:
    return Message(world.alerts, b"k", text, origin="in/0@7")


def finish(delivery: Delivery, messages: Sequence[Message], offsets: Mapping[TopicPartition, int]) -> None:
    for message in messages:
        delivery.send(message)
    delivery.finish(offsets, 20)


def values(world: World) -> list[bytes | None]:
    return [record.value for record in world.published()]


@EITHER_WAY
def test_messages_and_offsets_are_there_after_finish(world: World, way: str) -> None:
    source, place, delivery = begun(world, way)
    for number in range(1, 4):
        delivery.send(alert(world, b"%d" % number))
        delivery.send(alert(world, b"%d too" % number))
        delivery.finish({place: number}, 20)
        assert source.committed(place) == number
    assert values(world) == [b"1", b"1 too", b"2", b"2 too", b"3", b"3 too"]


@EITHER_WAY
def test_batches_with_and_without_messages_take_turns(world: World, way: str) -> None:
    """A commit alone must not be set back by the transaction before it, whose offsets come a moment later."""
    source, place, delivery = begun(world, way)
    for number in range(1, 31):
        if number % 2:
            delivery.send(alert(world, b"%d" % number))
        delivery.finish({place: number}, 20)
    assert source.committed(place) == 30
    assert values(world) == [b"%d" % number for number in range(1, 31, 2)]
    other = world.new_source()
    source.close()
    assert gain(other) == place
    assert other.committed(place) == 30


@EITHER_WAY
def test_a_refused_message_commits_nothing_and_what_follows_goes_through(world: World, way: str) -> None:
    source, place, delivery = begun(world, way)
    with pytest.raises(RecordError, match="in/0@7: 5000001 bytes are more than topic"):
        finish(delivery, [alert(world, b"small"), alert(world, b"x" * 5_000_000)], {place: 5})
    delivery.settle()
    assert source.committed(place) == 0
    finish(delivery, [alert(world, b"the next one")], {place: 6})
    assert source.committed(place) == 6
    assert b"the next one" in values(world)


def test_exactly_once_a_batch_with_a_refused_message_is_not_seen(world: World) -> None:
    _, place, delivery = begun(world, "exactly_once")
    with pytest.raises(RecordError):
        finish(delivery, [alert(world, b"small"), alert(world, b"x" * 5_000_000)], {place: 5})
    delivery.settle()
    finish(delivery, [alert(world, b"the next one")], {place: 6})
    assert values(world) == [b"the next one"]


@EITHER_WAY
def test_a_topic_that_is_not_there_is_named(world: World, way: str) -> None:
    source, place, delivery = begun(world, way)
    with pytest.raises(ConfigError, match="topic never-made is not there"):
        finish(delivery, [Message("never-made", b"k", b"v")], {place: 5})
    assert source.committed(place) == 0


@EITHER_WAY
def test_a_partition_of_another_member_is_not_committed(world: World, way: str) -> None:
    source, _, delivery = begun(world, way)
    with pytest.raises(AssignmentLost):
        finish(delivery, [alert(world, b"a zombie's")], {TopicPartition(world.topic, 7): 5})
    if way == "exactly_once":
        assert values(world) == []
    assert source.committed(TopicPartition(world.topic, 7)) is None


def test_exactly_once_needs_no_source(world: World) -> None:
    delivery = world.transactions(None, world.alerts)
    world.opened.append(delivery)
    delivery.settle()
    finish(delivery, [], {})
    finish(delivery, [alert(world, b"1"), alert(world, b"2")], {})
    assert values(world) == [b"1", b"2"]


def test_what_is_not_finished_is_not_seen_by_anyone(world: World) -> None:
    source, place, delivery = begun(world, "exactly_once")
    delivery.send(alert(world, b"given up"))
    successor = world.new_delivery("exactly_once", source)
    assert source.committed(place) == 0
    finish(successor, [alert(world, b"done")], {place: 3})
    assert values(world) == [b"done"]


def test_a_zombie_that_sends_only_now_is_refused(world: World) -> None:
    """As a command that waited for its user's answer, while another one of its name has begun."""
    source, _, zombie = begun(world, "exactly_once")
    finish(zombie, [alert(world, b"in time")], {})
    successor = world.new_delivery("exactly_once", source)
    with pytest.raises(AssignmentLost, match="another process has"):
        finish(zombie, [alert(world, b"a zombie's")] * 3, {})
    finish(successor, [alert(world, b"the successor's")], {})
    assert values(world) == [b"in time", b"the successor's"]


def test_a_zombie_of_the_same_name_is_refused(world: World) -> None:
    """It was stopped in a batch; meanwhile another process has begun in its place."""
    source, place, zombie = begun(world, "exactly_once")
    zombie.send(alert(world, b"a zombie's"))
    successor = world.new_delivery("exactly_once", source)
    with pytest.raises(AssignmentLost):
        zombie.finish({place: 5}, 20)
    assert source.committed(place) == 0
    successor.settle()
    assert values(world) == []
