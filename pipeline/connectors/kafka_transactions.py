"""Exactly once: alerts, dead letters and offsets in one Kafka transaction.

A reader with `isolation_level=read_committed` sees all of a batch or nothing, and all of it once. What that rests
on:

- `commit_transaction` of the client may succeed though a message was lost, for a delivery that timed out leaves
  no mark on the transaction. So each message's own confirmation is asked for before the offsets are sent.
- The offsets go out with the member's generation, not only the group's name: the broker refuses those of a member
  that the group has moved on without. The partitions are compared with the assignment too, since the broker
  does not ask whose they are.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka_client import NO_MEMBER, client_errors, translated
from pipeline.connectors.kafka_publisher import KafkaPublisher
from pipeline.connectors.kafka_source import KafkaSource, as_client
from pipeline.errors import AssignmentLost, ConfigError, OffkeyError, TransientError
from pipeline.protocols import Message, TopicPartition

logger = logging.getLogger(__name__)

TRANSACTION_TIMEOUT_S = 10.0
"""The broker ends a transaction that is open for longer: so long a worker that died holds its readers up."""
_ABORT_S = 3.0
_FENCED = (client_errors.ProducerFencedError, client_errors.InvalidProducerEpochError)


class KafkaTransactions:
    """Batches of messages with the offsets behind them; see `pipeline.protocols.Delivery`."""

    def __init__(
        self, connection: Connection, source: KafkaSource, transactional_id: str, delivery_timeout_s: float = 30.0
    ) -> None:
        """Connect.

        Args:
            transactional_id: what a later process in this one's place has again; no other one may.

        Raises:
            TransientError: the broker does not answer.
        """
        self._source, self._id = source, transactional_id
        self._publisher = KafkaPublisher(
            connection,
            delivery_timeout_s,
            transactional_id=transactional_id,
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000),
        )
        self._settled = self._open = False

    def settle(self) -> None:
        if not self._settled:
            with self._given_up_on_error(), self._translated():
                self._publisher.producer().init_transactions()
            self._settled = True

    def send(self, message: Message) -> None:
        with self._given_up_on_error():
            if not self._open:
                with self._translated():
                    self._publisher.producer().begin_transaction()
                self._open = True
            self._publisher.send(message)

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        if not self._open:
            if offsets:
                self._source.commit(offsets)
            return
        deadline_s = time.monotonic() + min(timeout_s, TRANSACTION_TIMEOUT_S)
        with self._given_up_on_error():
            self._publisher.confirm(deadline_s - time.monotonic())
            if offsets:
                member, asked = self._source.membership(offsets), as_client(offsets)
                self._ask(lambda manager: manager.send_offsets_to_transaction(asked, member), deadline_s)
            self._ask(lambda manager: manager.begin_commit(), deadline_s)
        self._open = False

    def close(self, timeout_s: float = 5.0) -> None:
        if self._open:
            self._give_up(min(timeout_s, _ABORT_S))
        self._publisher.close(timeout_s)

    def _ask(self, request: Callable[[Any], Any], deadline_s: float) -> None:
        """Do what the client's method of like name does, but wait no longer than until the deadline."""
        producer = self._publisher.producer()
        manager = producer._transaction_manager
        with self._translated():
            try:
                result = request(manager)
                producer._sender.wakeup()
                answered = result.wait(timeout_ms=max(deadline_s - time.monotonic(), 0) * 1000)
            except client_errors.KafkaError as error:
                # Asked in a state of error, the client tells of that state and not of its cause.
                raise (manager.last_error or error) from error
        if not answered:
            raise TransientError(
                f"transaction {self._id}: no answer within {TRANSACTION_TIMEOUT_S:g} s; is the broker running?"
            )

    @contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        try:
            yield
        except OffkeyError:
            self._give_up()
            raise

    def _give_up(self, timeout_s: float = _ABORT_S) -> None:
        """Let the broker forget the open transaction, if it can be told, and begin anew with another producer."""
        if self._open:
            try:
                self._ask(lambda manager: manager.begin_abort(), time.monotonic() + timeout_s)
            except OffkeyError as error:
                logger.warning("left to the broker, or to the next start, to abort: %s", error)
        self._settled = self._open = False
        self._publisher.discard()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        what = f"transaction {self._id}"
        try:
            with translated(what):
                try:
                    yield
                except _FENCED as error:
                    raise AssignmentLost(
                        f"{what}: the broker has ended it, for it took too long, or for a process of the same name"
                    ) from error
                except client_errors.TransactionalIdAuthorizationFailedError as error:
                    raise ConfigError(
                        f"{what}: no right to that transactional id; grant write and describe to this user"
                    ) from error
        except NO_MEMBER as error:
            raise AssignmentLost(f"{what}: the group has moved on without this member ({error})") from error
