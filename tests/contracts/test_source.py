"""One suite for `Source`: on the twin, on the embedded broker, on Apache Kafka."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaTimeoutError

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.errors import AssignmentLost, ConfigError, OffkeyError, TransientError
from pipeline.protocols import Message, Source, TopicPartition
from tests.contracts.worlds import World, gain, gain_all, poll_until, read


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


def test_a_poll_holds_no_more_records_than_it_says(world: World) -> None:
    world.produce(350)
    source = world.new_source()
    source.start(gain(source), 0)
    polls: list[int] = []

    def all_came() -> bool:
        polls.append(sum(len(records.records) for records in source.poll(0.1)))
        return sum(polls) == 350

    deadline_s = time.monotonic() + 60
    while not all_came():
        assert time.monotonic() < deadline_s, "not all came in time"
    assert source.most_records() == 100
    assert 50 < max(polls) <= 100


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


def test_the_committed_offset_is_asked_for_anew(apache_broker: str, unique: Callable[[str], str]) -> None:
    """Also where a poll has ended before the broker answered it the same question."""
    connection, place = Connection(apache_broker), TopicPartition(unique("in"), 0)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({place.topic: 1})
    with closing(KafkaSource(connection, GroupOptions(unique("group")), [place.topic])) as source:
        gain(source)
        group = source._consumer._coordinator
        assert not group.refresh_committed_offsets_if_needed(timeout_ms=0.001)
        (question,) = group._offset_fetch_futures.values()
        pause = threading.Event()
        while not question.is_done:
            pause.wait(0.01)
        source.start(place, 0)
        source.commit({place: 7})
        assert source.committed(place) == 7


def test_start_moves_a_running_partition(world: World) -> None:
    world.produce(20)
    source = world.new_source()
    place = gain(source)
    source.start(place, 15)
    assert [record.offset for record in read(source, 5)] == list(range(15, 20))
    source.start(place, 3)
    assert read(source, 17)[0].offset == 3


def test_a_paused_partition_brings_nothing_until_it_is_started(world: World) -> None:
    world.produce(20)
    source = world.new_source()
    place = gain(source)
    source.start(place, 0)
    read(source, 20)
    source.pause(place)
    world.produce(10, first=20)
    for _ in range(5):
        assert not source.poll(0.2)
    assert source.assignment().lost == frozenset()
    source.commit({place: 15})
    source.start(place, 15)
    assert [record.offset for record in read(source, 15)] == list(range(15, 30))


def test_a_partition_goes_to_the_member_that_stays(world: World) -> None:
    world.produce(10)
    first = world.new_source()
    gain(first)
    second = world.new_source()
    first.close()
    assert gain(second) == (world.topic, 0)


def test_a_second_member_takes_its_share(wide_world: World) -> None:
    wide_world.produce(40)
    first = wide_world.new_source()
    held: dict[Source, set[TopicPartition]] = {first: set(gain_all(first, 2))}
    second = wide_world.new_source()
    held[second] = set()

    def shared() -> bool:
        for source, places in held.items():
            change = source.assignment()
            places -= change.lost
            places |= change.gained
        return set(map(len, held.values())) == {1} and held[first].isdisjoint(held[second])

    poll_until(shared, first, second)
    (kept,), (moved,) = held.values()
    with pytest.raises(AssignmentLost, match=f"cannot commit {moved.topic}/{moved.partition}: no longer assigned"):
        first.commit({moved: 1})
    first.start(moved, 0)
    first.start(kept, 0)
    assert {arrived.partition for arrived in first.poll(2)} <= {kept}
    second.start(moved, 0)
    first.commit({kept: 1})
    second.commit({moved: 2})
    assert (second.committed(kept), second.committed(moved)) == (1, 2)


@pytest.fixture(params=["gzip", "lz4", "snappy", "zstd"])
def compressed(request: pytest.FixtureRequest, apache_broker: str, unique: Callable[[str], str]) -> str:
    """A topic whose records the broker packs, with 50 of them."""
    topic = unique(request.param)
    options = {"num_partitions": 1, "replication_factor": 1, "configs": {"compression.type": request.param}}
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        admin.create_topics({topic: options})
    with closing(KafkaPublisher(Connection(apache_broker))) as publisher:
        for number in range(50):
            publisher.send(Message(topic, None, b"v%d" % number * 100))
        publisher.flush(20)
    return topic


def test_records_are_read_however_they_are_packed(apache_broker: str, compressed: str) -> None:
    with closing(KafkaSource(Connection(apache_broker), GroupOptions(compressed), [compressed])) as source:
        source.start(gain(source), 0)
        assert [record.value for record in read(source, 50)] == [b"v%d" % number * 100 for number in range(50)]


@pytest.mark.parametrize("compressed", ["zstd"], indirect=True)
def test_what_cannot_be_unpacked_is_named(
    apache_broker: str, compressed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kafka.codec.zstd", None)
    said = f"{compressed}: cannot be unpacked .*zstd.*; install offkey again with its dependencies"
    with closing(KafkaSource(Connection(apache_broker), GroupOptions(compressed), [compressed])) as source:
        source.start(gain(source), 0)
        with pytest.raises(ConfigError, match=said):
            read(source, 50)
    with pytest.raises(ConfigError, match=said):
        list(history(Connection(apache_broker), compressed, 10))


def test_an_id_tells_a_topic_from_another(world: World) -> None:
    source = world.new_source()
    assert source.topic_id(world.topic)
    assert source.topic_id(world.topic) == world.new_source().topic_id(world.topic)


def test_a_topic_that_is_not_there_has_no_id(world: World) -> None:
    with pytest.raises(ConfigError, match="topic never-made is not there"):
        world.new_source().topic_id("never-made")


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


def test_history_takes_a_record_of_each_partition_at_least(
    apache_broker: str, unique: Callable[[str], str]
) -> None:
    connection, topic = Connection(apache_broker), unique("past")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 3})
    with closing(KafkaPublisher(connection)) as publisher:
        for number in range(60):
            publisher.send(Message(topic, b"k%d" % number, b"v%d" % number))
        publisher.flush(20)
    newest = [(at.partition.partition, len(at.records)) for at in history(connection, topic, 2)]
    assert sorted(newest) == [(0, 1), (1, 1), (2, 1)]


def test_history_names_a_broker_that_stops_answering(
    embedded_broker: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unanswered(consumer: KafkaConsumer, place: object) -> int:
        raise KafkaTimeoutError("no position")

    connection, topic = Connection(embedded_broker), unique("past")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    with closing(KafkaPublisher(connection)) as publisher:
        publisher.send(Message(topic, None, b"v"))
        publisher.flush(20)
    monkeypatch.setattr(KafkaConsumer, "position", unanswered)
    with pytest.raises(TransientError, match=f"topic {topic}: no answer .*no position"):
        list(history(connection, topic, 10))


def test_a_broker_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(TransientError, match=r"Kafka at 127\.0\.0\.1:1: no answer"):
        KafkaCluster(Connection("127.0.0.1:1", connect_timeout_s=0.5))


def test_a_topic_that_is_not_there_is_named_before_subscribing(broker: str) -> None:
    with pytest.raises(OffkeyError, match="topic never-made is not there"):
        KafkaSource(Connection(broker), GroupOptions("g"), ["never-made"])


def test_a_member_without_partitions_is_joined_too(world: World) -> None:
    sources = [world.new_source(), world.new_source()]
    assert {source.partition_count(world.topic) for source in sources} == {1}

    poll_until(lambda: all(source.joined() for source in sources), *sources)


def test_who_was_never_assigned_anything_is_not_joined(world: World) -> None:
    source = world.new_source()
    # The twin joins when it is made.
    assert source.joined() == (world.kind == "twin")
    gain(source)
    assert source.joined()
