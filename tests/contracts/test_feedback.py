"""One suite for `FeedbackTopic`: on the twin, on the embedded broker, on Apache Kafka."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaFeedback, KafkaLog, KafkaPublisher
from pipeline.errors import ConfigError
from pipeline.feedback import Book, FeedbackTopic, message, tombstone
from pipeline.protocols import Message, RawRecord
from tests.brokers import MISSING, ApacheBroker
from tests.contracts.worlds import World
from tests.said import said

_DEADLINE_S = 30.0


def say(world: World, *messages: Message) -> None:
    publisher = world.new_publisher()
    for each in messages:
        publisher.send(each)
    publisher.flush(20)


def poll_until(topic: FeedbackTopic, enough: Callable[[list[RawRecord]], bool]) -> list[RawRecord]:
    """Poll until what has come is enough: a real broker's answers take a moment."""
    found: list[RawRecord] = []
    deadline_s, pause = time.monotonic() + _DEADLINE_S, threading.Event()
    while True:
        for arrived in topic.poll():
            assert arrived.records
            found += arrived.records
        if enough(found):
            return found
        assert time.monotonic() < deadline_s, "it did not come in time"
        pause.wait(0.02)


def test_it_is_read_whole_and_the_newest_word_counts(wide_world: World) -> None:
    topic, book = wide_world.topic, Book(wide_world.topic)
    say(wide_world, *(message(said(f"i{n}"), topic) for n in range(300)))
    say(wide_world, *(message(said(f"i{n}", "confirmed"), topic) for n in range(0, 300, 2)))
    say(wide_world, *(tombstone(f"i{n}", topic) for n in range(0, 300, 3)))
    with closing(wide_world.followed()) as followed:
        book.take(poll_until(followed, lambda found: followed.caught_up()))
    expected = {f"i{n}": "confirmed" if n % 2 == 0 else "false_alarm" for n in range(300) if n % 3}
    assert {incident: each.verdict for incident, each in book.said.items()} == expected


def test_two_readers_have_all_of_it_each(world: World) -> None:
    say(world, *(message(said(f"i{n}"), world.topic) for n in range(3)))
    with closing(world.followed()) as first, closing(world.followed()) as second:
        for each in (first, second):
            assert len(poll_until(each, lambda found: len(found) == 3)) == 3


def test_an_empty_topic_is_read_at_once(world: World) -> None:
    with closing(world.followed()) as followed:
        assert followed.caught_up()
        assert not followed.poll()


def test_it_goes_on_with_what_comes_later(world: World) -> None:
    say(world, message(said("i1"), world.topic))
    with closing(world.followed()) as followed:
        poll_until(followed, lambda found: followed.caught_up())
        say(world, message(said("i1", "confirmed"), world.topic), tombstone("i2", world.topic))
        found = poll_until(followed, lambda found: len(found) == 2)
        assert [(record.key, record.value is None) for record in found] == [(b"i1", False), (b"i2", True)]
        assert followed.caught_up()


def test_it_has_caught_up_when_all_that_it_held_has_come(world: World) -> None:
    say(world, *(message(said(f"i{n}"), world.topic) for n in range(1000)))
    with closing(world.followed()) as followed:
        assert not followed.caught_up()
        assert len(poll_until(followed, lambda found: followed.caught_up())) == 1000


def test_a_topic_that_is_not_there(broker: str, unique: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        KafkaFeedback(Connection(broker), unique("none"))


@pytest.fixture
def tidy_broker(tmp_path: Path) -> Iterator[ApacheBroker]:
    """One of the test's own, which compacts at once."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(MISSING)
    broker = ApacheBroker(tmp_path, settings="log.cleaner.backoff.ms=100\n")
    yield broker
    broker.close()


def test_the_newest_words_outlive_compaction(tidy_broker: ApacheBroker) -> None:
    """Offsets have holes then, and the first one is not 0: the end is found all the same."""
    connection = Connection(tidy_broker.bootstrap_servers)
    settings = {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.01"}
    with closing(KafkaCluster(connection)) as cluster:
        cluster._admin.create_topics({"said": {"num_partitions": 1, "replication_factor": 1, "configs": settings}})
        assert cluster.setting("said", "cleanup.policy") == "compact"
    at_ms, deadline_s, pause = 0, time.monotonic() + _DEADLINE_S, threading.Event()
    with closing(KafkaPublisher(connection)) as publisher:
        while (
            sum(len(arrived.records) for arrived in KafkaLog(connection, "said").read()) > at_ms / 2 or at_ms < 50
        ):
            assert time.monotonic() < deadline_s, "the broker did not compact"
            for _ in range(10):
                at_ms += 1
                publisher.send(message(said("i1", at_ms=at_ms), "said"))
                publisher.flush(20)
            pause.wait(0.1)
    book = Book("said")
    with closing(KafkaFeedback(connection, "said")) as followed:
        found = poll_until(followed, lambda found: followed.caught_up())
    book.take(found)
    assert len(found) < found[-1].offset
    assert book.said == {"i1": said("i1", at_ms=at_ms)}


def test_a_poll_never_waits_for_a_broker_that_is_away(tidy_broker: ApacheBroker) -> None:
    connection = Connection(tidy_broker.bootstrap_servers)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({"said": 1})
    with closing(KafkaPublisher(connection)) as publisher:
        publisher.send(message(said("i1"), "said"))
        publisher.flush(20)
    with closing(KafkaFeedback(connection, "said")) as followed:
        assert len(poll_until(followed, lambda found: followed.caught_up())) == 1
        tidy_broker.stop()
        began_s = time.monotonic()
        for _ in range(50):
            assert not followed.poll()
        assert time.monotonic() - began_s < 5
        tidy_broker.start()
        with closing(KafkaPublisher(connection)) as publisher:
            publisher.send(tombstone("i1", "said"))
            publisher.flush(20)
        assert [record.value for record in poll_until(followed, lambda found: len(found) == 1)] == [None]
