"""What only a real cluster does to a transaction: lose a record, refuse a zombie, outlive its producer, hang."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType, MemberToRemove, ResourceType
from kafka.structs import TopicPartition as ClientPartition

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaSource, KafkaTransactions, history, refuses_zombies
from pipeline.errors import AssignmentLost, ConfigError, DeliveryError, RecordError, TransientError
from pipeline.protocols import Message, TopicPartition
from tests.brokers import MISSING, ApacheBroker, forbid
from tests.commands import produce
from tests.contracts.worlds import gain, poll_until
from tests.receiving import until


class Place:
    """A topic to read with one partition, one to write, and members of its group that do both."""

    def __init__(self, broker: str, unique: Callable[[str], str]) -> None:
        self.connection, self.group = Connection(broker), unique("group")
        self.partition, self.alerts = TopicPartition(unique("in"), 0), unique("alerts")
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics({self.partition.topic: 1, self.alerts: 1})
        # A member that joins before its broker knows of the topic is assigned nothing for a while.
        produce(self.connection, self.partition.topic, [(None, b"the first")])
        self.opened: list[KafkaSource | KafkaTransactions] = []

    def member(self, instance: str | None = "replica-0") -> KafkaSource:
        """Join, and own the partition."""
        options = GroupOptions(self.group, instance, session_timeout_s=6)
        source = KafkaSource(self.connection, options, [self.partition.topic])
        self.opened.append(source)
        gain(source)
        source.start(self.partition, 1)
        return source

    def transactions(self, source: KafkaSource, name: str = "replica-0") -> KafkaTransactions:
        made = KafkaTransactions(self.connection, source, f"{self.group}/{name}")
        self.opened.append(made)
        made.settle()
        return made

    def send(self, transactions: KafkaTransactions, text: bytes) -> None:
        transactions.send(Message(self.alerts, b"k", text, origin="in/0@7"))

    def seen(self) -> list[bytes | None]:
        found = history(self.connection, self.alerts, 1000)
        return [record.value for arrived in found for record in arrived.records]

    def close(self) -> None:
        for opened in self.opened:
            opened.close()


@pytest.fixture
def place(apache_broker: str, unique: Callable[[str], str]) -> Iterator[Place]:
    made = Place(apache_broker, unique)
    yield made
    made.close()


def lose(place: Place, transactions: KafkaTransactions) -> None:
    """Have the client hold back every message from now on, and give up on it: a delivery that takes too long."""
    accumulator = transactions._transaction.publisher.producer()._accumulator
    accumulator.muted.add(ClientPartition(place.alerts, 0))
    accumulator.config["delivery_timeout_ms"] = 0


def test_a_record_lost_inside_a_transaction_is_not_committed(place: Place) -> None:
    source = place.member()
    transactions = place.transactions(source)
    place.send(transactions, b"arrived")
    transactions._transaction.publisher.producer().flush()
    lose(place, transactions)
    place.send(transactions, b"lost")
    with pytest.raises(DeliveryError, match="in/0@7"):
        transactions.finish({place.partition: 2}, 20)
    transactions.settle()
    assert source.committed(place.partition) is None
    place.send(transactions, b"again")
    transactions.finish({place.partition: 2}, 20)
    assert source.committed(place.partition) == 2
    assert place.seen() == [b"again"]


def test_of_a_message_that_fails_behind_another_one_the_cause_is_told(place: Place) -> None:
    transactions = place.transactions(place.member())
    transactions.send(Message(place.alerts, b"k", b"x" * 5_000_000, origin="in/0@8"))
    producer = transactions._transaction.publisher.producer()
    producer.flush()
    assert producer._transaction_manager.has_error()
    with pytest.raises(RecordError, match="in/0@8: 5000001 bytes are more than topic"):
        place.send(transactions, b"behind")


def test_a_zombie_learns_it_from_any_message(place: Place) -> None:
    source = place.member()
    transactions = place.transactions(source)
    place.transactions(source)
    place.send(transactions, b"a zombie's")
    transactions._transaction.publisher.producer().flush()
    with pytest.raises(AssignmentLost, match="another process has its name"):
        place.send(transactions, b"one more")


def test_the_client_alone_would_have_committed_it(place: Place) -> None:
    """Should this fail, the client has learned to tell, and `confirm` in a transaction may go."""
    transactions = place.transactions(place.member())
    place.send(transactions, b"arrived")
    producer = transactions._transaction.publisher.producer()
    producer.flush()
    lose(place, transactions)
    place.send(transactions, b"lost")
    producer.flush()
    producer.commit_transaction()
    assert place.seen() == [b"arrived"]


def test_messages_that_fit_are_committed_though_a_batch_of_them_does_not(place: Place, apache_broker: str) -> None:
    """The client splits it: the transaction holds all of its parts."""
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        few = ConfigResource(ConfigResourceType.TOPIC, place.alerts, {"max.message.bytes": "600"})
        admin.alter_configs([few])
    source = place.member()
    transactions = place.transactions(source)
    sent = [b"%04d" % number * 50 for number in range(40)]
    for value in sent:
        place.send(transactions, value)
    transactions.finish({place.partition: 2}, 20)
    assert source.committed(place.partition) == 2
    assert place.seen() == sent


def test_a_member_that_the_group_has_thrown_out_commits_nothing(place: Place, apache_broker: str) -> None:
    source = place.member()
    transactions = place.transactions(source)
    place.send(transactions, b"a zombie's")
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        admin.remove_group_members(place.group, [MemberToRemove(group_instance_id="replica-0")])
    with pytest.raises(AssignmentLost):
        transactions.finish({place.partition: 5}, 20)
    transactions.settle()
    assert source.committed(place.partition) is None
    assert place.seen() == []
    # It comes back as any new member does, and goes on.
    poll_until(lambda: bool(source.assignment().gained), source)
    source.start(place.partition, 1)
    place.send(transactions, b"again")
    transactions.finish({place.partition: 5}, 20)
    assert place.seen() == [b"again"]


def test_a_member_that_has_heard_that_it_is_thrown_out_commits_nothing(place: Place, apache_broker: str) -> None:
    """Its client has forgotten the generation by then, and without one the broker would take the offsets."""
    source = place.member(instance=None)
    transactions = place.transactions(source)
    place.send(transactions, b"a zombie's")
    own = source._consumer.group_metadata().member_id
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        admin.remove_group_members(place.group, [MemberToRemove(member_id=own)])
    place.member(instance=None)
    until(lambda: source._consumer.group_metadata().generation_id < 0)
    with pytest.raises(AssignmentLost, match="it is no member any more"):
        transactions.finish({place.partition: 5}, 20)
    assert place.seen() == []
    poll_until(lambda: bool(source.assignment().gained), source)


def test_of_two_with_one_instance_id_the_first_is_told_why_it_ends(place: Place) -> None:
    """Even where it still has a transactional id of its own, the group knows."""
    zombie = place.member()
    transactions = place.transactions(zombie, "the first")
    place.send(transactions, b"a zombie's")
    place.member()
    with pytest.raises(ConfigError, match=r"same kafka\.instance_id; give each its own"):
        transactions.finish({place.partition: 5}, 20)
    assert zombie.committed(place.partition) is None
    assert place.seen() == []


def test_a_transaction_that_the_broker_has_timed_out_is_lost_and_the_next_goes_through(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a process that was stopped for a while: it is fenced, though it has no double."""
    monkeypatch.setattr("pipeline.connectors.kafka_transactions.TRANSACTION_TIMEOUT_S", 1.0)
    source = place.member()
    transactions = place.transactions(source)
    place.send(transactions, b"too late")
    transactions._transaction.publisher.producer().flush()
    monkeypatch.setattr("pipeline.connectors.kafka_transactions.TRANSACTION_TIMEOUT_S", 10.0)
    with closing(KafkaAdminClient(bootstrap_servers=place.connection.bootstrap_servers)) as admin:
        name = f"{place.group}/replica-0"
        while admin.describe_transactions([name])[name].state != "CompleteAbort":
            assert not source.poll(0.2)
    with pytest.raises(AssignmentLost, match="the broker has ended it: it took too long"):
        transactions.finish({place.partition: 5}, 20)
    transactions.settle()
    assert source.committed(place.partition) is None
    place.send(transactions, b"in time")
    transactions.finish({place.partition: 5}, 20)
    assert place.seen() == [b"in time"]


def test_without_an_instance_id_the_next_owner_waits_for_the_broker_to_give_up(place: Place) -> None:
    """Its offset is undecided so long: to read the older one would publish twice."""
    first = place.member(None)
    dead = place.transactions(first, "gone for ever")
    place.send(dead, b"never finished")
    dead._transaction.publisher.confirm(10)
    member = first.membership([place.partition])
    dead._transaction.send_offsets({place.partition: 7}, member, time.monotonic() + 10)
    first.close()
    second = place.member(None)
    answers: list[int | str | None] = []
    while not answers or answers[-1] == "undecided":
        try:
            answers.append(second.committed(place.partition))
        except TransientError:
            answers.append("undecided")
    assert answers == ["undecided"] * (len(answers) - 1) + [None]
    assert place.seen() == []


def test_no_right_to_the_transactional_id_is_named(place: Place, apache_broker: str) -> None:
    name = f"{place.group}/replica-0"
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        forbid(admin, ACLOperation.WRITE, ResourceType.TRANSACTIONAL_ID, name)
    with pytest.raises(ConfigError, match=f"transaction {name}: no right to write by"):
        place.transactions(place.member())


def test_a_transactional_id_is_named_whose_right_is_taken_away(place: Place, apache_broker: str) -> None:
    """And not the topic, though its message is what is refused."""
    name = f"{place.group}/replica-0"
    transactions = place.transactions(place.member())
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        forbid(admin, ACLOperation.WRITE, ResourceType.TRANSACTIONAL_ID, name)
    place.send(transactions, b"refused")
    with pytest.raises(
        ConfigError, match=f"^transaction {name}: no right to write by that transactional id; grant"
    ):
        transactions.finish({place.partition: 5}, 20)
    assert place.seen() == []


@pytest.mark.parametrize("step", ["send_offsets_to_transaction", "begin_commit"])
def test_a_broker_that_hangs_in_a_commit_is_not_waited_for_without_end(
    step: str, tmp_path: Path, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs just before it is asked to; afterwards all is there, or nothing is."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(MISSING)
    broker = ApacheBroker(tmp_path)
    place = Place(broker.bootstrap_servers, unique)
    with closing(broker), closing(place):
        source = place.member()
        transactions = place.transactions(source)
        place.send(transactions, b"in doubt")
        manager = transactions._transaction.publisher.producer()._transaction_manager
        ask = getattr(manager, step)

        def hang(*arguments: object) -> object:
            os.kill(broker.pid, signal.SIGSTOP)
            return ask(*arguments)

        monkeypatch.setattr(manager, step, hang)
        with pytest.raises(TransientError, match="is the broker running"):
            transactions.finish({place.partition: 5}, 2)
        os.kill(broker.pid, signal.SIGCONT)
        transactions.settle()
        done = source.committed(place.partition) == 5
        assert place.seen() == ([b"in doubt"] if done else [])


def test_the_broker_is_tried_for_whether_it_refuses_zombies(place: Place, apache_broker: str) -> None:
    source = place.member()
    source.commit({place.partition: 1})
    transactions = place.transactions(source)
    assert refuses_zombies(place.connection, place.group)
    # A worker that runs is not disturbed.
    place.send(transactions, b"done")
    transactions.finish({place.partition: 2}, 20)
    assert source.committed(place.partition) == 2
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        forbid(admin, ACLOperation.READ, ResourceType.GROUP, place.group)
    with pytest.raises(ConfigError, match="no right"):
        refuses_zombies(place.connection, place.group)
