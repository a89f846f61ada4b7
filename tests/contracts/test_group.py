"""What only a real cluster does to a group member: throw it out, fence it, expire what it reads, refuse it."""

from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType, MemberToRemove, ResourceType
from kafka.structs import TopicPartition as ClientPartition

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.errors import AssignmentLost, ConfigError
from pipeline.protocols import Message, TopicPartition
from tests.brokers import forbid
from tests.contracts.worlds import gain, poll_until, read


@pytest.fixture
def admin(apache_broker: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=apache_broker)
    yield client
    client.close()


@pytest.fixture
def place(apache_broker: str, unique: Callable[[str], str]) -> TopicPartition:
    """The one partition of a topic with 100 records."""
    topic, connection = unique("in"), Connection(apache_broker)
    cluster = KafkaCluster(connection)
    cluster.create_topics({topic: 1})
    cluster.close()
    publisher = KafkaPublisher(connection)
    for number in range(100):
        publisher.send(Message(topic, None, b"v%d" % number))
    publisher.flush(20)
    publisher.close()
    return TopicPartition(topic, 0)


@pytest.fixture
def join(apache_broker: str, place: TopicPartition) -> Iterator[Callable[[], KafkaSource]]:
    """Join the topic's group, as the member of the one instance id."""
    opened: list[KafkaSource] = []

    def joined() -> KafkaSource:
        options = GroupOptions(f"group-{place.topic}", "replica-0", session_timeout_s=6, max_poll_records=10)
        opened.append(KafkaSource(Connection(apache_broker), options, [place.topic]))
        return opened[-1]

    yield joined
    for source in opened:
        source.close()


def follow(source: KafkaSource, attempt: Callable[[], None]) -> list[TopicPartition]:
    """Start what is gained, as a worker does, until an attempt is no longer refused; return what was gained."""
    gained: list[TopicPartition] = []

    def accepted() -> bool:
        for at in source.assignment().gained:
            source.start(at, 0)
            gained.append(at)
        try:
            attempt()
        except AssignmentLost:
            return False
        return True

    poll_until(accepted, source)
    return gained


def test_a_member_thrown_out_cannot_commit_and_comes_back(
    join: Callable[[], KafkaSource], place: TopicPartition, admin: KafkaAdminClient
) -> None:
    source = join()
    gain(source)
    source.start(place, 0)
    read(source, 10)
    admin.remove_group_members(f"group-{place.topic}", [MemberToRemove(group_instance_id="replica-0")])
    with pytest.raises(AssignmentLost):
        source.commit({place: 10})
    assert set(follow(source, lambda: source.commit({place: 10}))) == {place}
    assert source.committed(place) == 10


def test_a_restart_under_the_same_instance_id_keeps_its_partitions(
    join: Callable[[], KafkaSource], place: TopicPartition
) -> None:
    first = join()
    gain(first)
    first.start(place, 0)
    first.commit({place: 7})
    first.close()
    second = join()
    # Without a wait for the session of the first to end: the group knows the instance.
    assert gain(second) == place
    assert second.committed(place) == 7


def test_two_processes_of_one_instance_id_are_a_config_error(
    join: Callable[[], KafkaSource], place: TopicPartition
) -> None:
    first = join()
    gain(first)
    gain(join())
    with pytest.raises(ConfigError, match=r"same kafka\.instance_id"):
        first.commit({place: 1})


def test_one_that_only_reads_is_told_of_its_double(join: Callable[[], KafkaSource], place: TopicPartition) -> None:
    first = join()
    gain(first)
    gain(join())
    with pytest.raises(ConfigError, match=r"same kafka\.instance_id"):
        poll_until(lambda: False, first)


def test_an_expired_position_is_given_back_and_not_skipped(
    join: Callable[[], KafkaSource], place: TopicPartition, admin: KafkaAdminClient
) -> None:
    source = join()
    gain(source)
    source.commit({place: 10})
    admin.delete_records({ClientPartition(*place): 60})
    source.start(place, 10)
    assert gain(source) == place
    assert source.committed(place) == 10
    assert source.offsets(place) == (60, 100)
    source.start(place, 60)
    assert read(source, 1)[0].offset == 60


def test_a_position_past_the_end_is_given_back(join: Callable[[], KafkaSource], place: TopicPartition) -> None:
    source = join()
    gain(source)
    source.commit({place: 500})
    source.start(place, 500)
    assert gain(source) == place
    assert source.offsets(place) == (0, 100)


def test_a_topic_made_anew_has_another_id(
    join: Callable[[], KafkaSource], place: TopicPartition, admin: KafkaAdminClient, apache_broker: str
) -> None:
    source = join()
    before = source.topic_id(place.topic)
    admin.delete_topics([place.topic])
    cluster = KafkaCluster(Connection(apache_broker))
    made_anew: list[str] = []

    def is_there() -> bool:
        cluster.create_topics({place.topic: 1})
        try:
            made_anew.append(source.topic_id(place.topic))
        except ConfigError:
            return False
        return made_anew[-1] != before

    poll_until(is_there, source)
    cluster.close()
    assert before
    assert made_anew[-1] != before


def test_a_topic_that_goes_while_it_is_written_to_is_named(
    place: TopicPartition, admin: KafkaAdminClient, apache_broker: str
) -> None:
    publisher = KafkaPublisher(Connection(apache_broker))
    publisher.send(Message(place.topic, None, b"v"))
    publisher.flush(20)
    admin.delete_topics([place.topic])
    publisher.send(Message(place.topic, None, b"v"))
    with pytest.raises(ConfigError, match=f"topic {place.topic} is not there"):
        publisher.flush(2)
    publisher.close()


def test_messages_that_fit_are_sent_though_a_batch_of_them_does_not(
    place: TopicPartition, admin: KafkaAdminClient, apache_broker: str
) -> None:
    """The client splits the batch, and again, and those who wait for it wait for its parts."""
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, place.topic, {"max.message.bytes": "600"})])
    publisher = KafkaPublisher(Connection(apache_broker))
    sent = [b"%04d" % number * 50 for number in range(40)]
    for value in sent:
        publisher.send(Message(place.topic, None, value))
    publisher.flush(20)
    publisher.close()
    found = [
        record for arrived in history(Connection(apache_broker), place.topic, 1000) for record in arrived.records
    ]
    assert [record.value for record in found[100:]] == sent


def test_no_right_to_write_is_named(place: TopicPartition, admin: KafkaAdminClient, apache_broker: str) -> None:
    forbid(admin, ACLOperation.WRITE, ResourceType.TOPIC, place.topic)
    cluster = KafkaCluster(Connection(apache_broker))
    assert cluster.topic(place.topic, "READ").partitions == 1
    with pytest.raises(ConfigError, match=f"topic {place.topic}: no right to write"):
        cluster.topic(place.topic, "WRITE")
    cluster.close()
    publisher = KafkaPublisher(Connection(apache_broker))
    publisher.send(Message(place.topic, None, b"v", origin="in/0@3"))
    with pytest.raises(ConfigError, match=f"in/0@3: no right to write to topic {place.topic}"):
        publisher.flush(20)
    publisher.close()


def test_no_right_to_read_is_named_before_joining(
    join: Callable[[], KafkaSource], place: TopicPartition, admin: KafkaAdminClient, apache_broker: str
) -> None:
    forbid(admin, ACLOperation.READ, ResourceType.TOPIC, place.topic)
    with pytest.raises(ConfigError, match=f"topic {place.topic}: no right to read"):
        join()
    with pytest.raises(ConfigError, match=f"topic {place.topic}: no right to read"):
        list(history(Connection(apache_broker), place.topic, 10))


def test_no_right_to_the_group_is_named(
    join: Callable[[], KafkaSource], place: TopicPartition, admin: KafkaAdminClient
) -> None:
    forbid(admin, ACLOperation.READ, ResourceType.GROUP, f"group-{place.topic}")
    source = join()
    with pytest.raises(ConfigError, match=f"^group group-{place.topic}: no right to read; grant"):
        source.poll(20)
