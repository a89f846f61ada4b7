"""Exactly once: alerts, dead letters and offsets, or records that are sent back, in one Kafka transaction.

A reader with `isolation_level=read_committed` sees all of a batch or nothing, and all of it once. What that rests
on:

- `commit_transaction` of the client may succeed though a message was lost, for a delivery that timed out leaves
  no mark on the transaction. So each message's own confirmation is asked for before the offsets are sent.
- The offsets go out with the member's generation, not only the group's name: the broker refuses those of a member
  that the group has moved on without. A client that has heard of that has no generation any more, and without one
  the broker refuses nobody; so it is refused here. The partitions are compared with the assignment too, since the
  broker does not ask whose they are.
- After any error the producer is closed. The next one takes the same transactional id, and by that the broker ends
  what was open, one way or the other, before `settle` returns. The committed offset, read with
  `isolation_level=read_committed`, then says which; so a commit whose answer was lost needs no guess.
- The client waits for its transactional requests without a timeout, so their results are waited for here.

**A producer that is fenced** counts as a lost assignment and not as the user's mistake. The broker fences also for
itself, when a transaction took longer than its timeout: a process that was stopped for a while has no double. One
that has a double shares its `kafka.instance_id` with it, and of those two the group ends one, with the reason.

A batch without messages needs no transaction, which takes 17 ms, and is committed by the consumer. That is safe:
its only effect is the commit. The broker keeps the offset that was written last, so an earlier transaction, whose
offsets may become visible a moment later, does not set it back.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka_client import NO_MEMBER, ConsumerGroupMetadata, client_errors, translated
from pipeline.connectors.kafka_publisher import KafkaPublisher
from pipeline.connectors.kafka_source import KafkaSource, as_client
from pipeline.errors import AssignmentLost, DeliveryError, OffkeyError, TransientError
from pipeline.protocols import Message, TopicPartition

logger = logging.getLogger(__name__)

TRANSACTION_TIMEOUT_S = 10.0
"""The broker ends a transaction that is open for longer: so long a worker that died holds its readers up."""
_ABORT_S = 3.0
_CAUSE_S = 3.0
_RETRY_BACKOFF_MS = 10
"""The broker often asks to come again while it still finishes the transaction before: the client's 100 ms make one
take 30 ms on the mean, these 17."""
_FENCED = (client_errors.ProducerFencedError, client_errors.InvalidProducerEpochError)


class KafkaTransactions:
    """Batches of messages with the offsets behind them; see `pipeline.protocols.Delivery`."""

    def __init__(
        self,
        connection: Connection,
        source: KafkaSource | None,
        transactional_id: str,
        delivery_timeout_s: float = 30.0,
    ) -> None:
        """Connect.

        Args:
            source: whose offsets are committed; None: batches have messages only.
            transactional_id: what a later process in this one's place has again; no other one may.

        Raises:
            TransientError: the broker does not answer.
        """
        self._source = source
        self._transaction = _Transaction(connection, transactional_id, delivery_timeout_s)

    def settle(self) -> None:
        self._transaction.settle()

    def send(self, message: Message) -> None:
        with self._transaction.given_up_on_error():
            self._transaction.begin()
            self._transaction.send(message)

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        transaction = self._transaction
        if not transaction.is_open:
            if offsets:
                self._reader().commit(offsets)
            return
        deadline_s = time.monotonic() + min(timeout_s, TRANSACTION_TIMEOUT_S)
        with transaction.given_up_on_error():
            transaction.confirm(deadline_s)
            if offsets:
                transaction.send_offsets(offsets, self._reader().membership(offsets), deadline_s)
            transaction.commit(deadline_s)

    def close(self, timeout_s: float = 5.0) -> None:
        self._transaction.close(timeout_s)

    def _reader(self) -> KafkaSource:
        assert self._source is not None, "offsets come from a source"
        return self._source


class _Transaction:
    """The one transaction that is open, or may be opened next, of the producers under one transactional id."""

    def __init__(self, connection: Connection, transactional_id: str, delivery_timeout_s: float = 30.0) -> None:
        self._name = f"transaction {transactional_id}"
        self._settled = False
        self.is_open = False
        self.publisher = KafkaPublisher(
            connection,
            delivery_timeout_s,
            transactional_id=transactional_id,
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000),
            retry_backoff_ms=_RETRY_BACKOFF_MS,
        )

    def settle(self) -> None:
        if not self._settled:
            with self.given_up_on_error(), self._translated():
                self.publisher.producer().init_transactions()
            self._settled = True

    def begin(self) -> None:
        assert self._settled, "settle comes first"
        if not self.is_open:
            with self._translated():
                self.publisher.producer().begin_transaction()
            self.is_open = True

    def send(self, message: Message) -> None:
        try:
            with self._fencing_told():
                self.publisher.send(message)
        except DeliveryError:
            if self._manager.has_error():
                # The client takes no more once a message has failed: the cause is with one that was sent before.
                self.confirm(time.monotonic() + _CAUSE_S)
            raise

    def confirm(self, deadline_s: float) -> None:
        with self._fencing_told():
            self.publisher.confirm(max(deadline_s - time.monotonic(), 0))

    def send_offsets(
        self, offsets: Mapping[TopicPartition, int], member: ConsumerGroupMetadata, deadline_s: float
    ) -> None:
        self._ask("send_offsets_to_transaction", deadline_s, as_client(offsets), member)

    def commit(self, deadline_s: float) -> None:
        self._ask("begin_commit", deadline_s)
        self.is_open = False

    def close(self, timeout_s: float = 5.0) -> None:
        if self.is_open:
            self._give_up(min(timeout_s, _ABORT_S))
        self.publisher.close(timeout_s)

    def _ask(self, request: str, deadline_s: float, *arguments: Any) -> None:
        """Do what the client's method of like name does, but wait no longer than until the deadline."""
        manager = self._manager
        with self._translated():
            try:
                result = getattr(manager, request)(*arguments)
                self.publisher.producer()._sender.wakeup()
                answered = result.wait(timeout_ms=max(deadline_s - time.monotonic(), 0) * 1000)
            except client_errors.KafkaError as error:
                # Asked in a state of error, the client tells of that state and not of its cause.
                raise (manager.last_error or error) from error
        if not answered:
            raise TransientError(f"{self._name}: no answer in time to {request}; is the broker running?")

    @contextmanager
    def given_up_on_error(self) -> Iterator[None]:
        try:
            yield
        except OffkeyError:
            self._give_up(_ABORT_S)
            raise

    def _give_up(self, timeout_s: float) -> None:
        """Have the broker forget what is open, if it can be told, and go on with another producer."""
        if self.is_open:
            try:
                self._ask("begin_abort", time.monotonic() + timeout_s)
            except AssignmentLost as error:
                logger.debug("nothing to abort: %s", error)
            except OffkeyError as error:
                # Also where a commit was asked for: what it came to is for the next producer to find out.
                logger.warning("not aborted here, but by the broker or the next producer: %s", error)
        self._settled = self.is_open = False
        self.publisher.discard()

    @contextmanager
    def _fencing_told(self) -> Iterator[None]:
        """Tell a fenced producer, whose messages merely fail, from a broker that does not confirm them."""
        try:
            yield
        except DeliveryError as error:
            if isinstance(self._manager.last_error, _FENCED):
                raise self._fenced() from error
            raise

    @property
    def _manager(self) -> Any:
        return self.publisher.producer()._transaction_manager

    def _fenced(self) -> AssignmentLost:
        return AssignmentLost(
            f"{self._name}: the broker has ended it: it took too long, or another process has its name"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._name):
                try:
                    yield
                except _FENCED as error:
                    raise self._fenced() from error
        except NO_MEMBER as error:
            raise AssignmentLost(f"{self._name}: the group has moved on without this member ({error})") from error


def refuses_zombies(connection: Connection, group_id: str) -> bool:
    """Try whether a producer is refused once another one of its name has begun; nothing is written.

    Raises:
        ConfigError: no right to the group's transactional ids, or to the group.
        TransientError: the broker does not answer, or knows no transactions.
    """
    # No process has this name: that of an instance has no slash.
    name = f"{group_id}//check"
    with closing(_Transaction(connection, name)) as first, closing(_Transaction(connection, name)) as second:
        first.settle()
        first.begin()
        second.settle()
        try:
            first.send_offsets({}, ConsumerGroupMetadata(group_id), time.monotonic() + TRANSACTION_TIMEOUT_S)
        except AssignmentLost:
            return True
    return False
