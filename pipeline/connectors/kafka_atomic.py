"""Messages in Kafka transactions: all or none of them, and one publisher of a name at a time."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from pipeline.connectors.connection import REQUEST_TIMEOUT_MS, Connection, require_fast_checksums
from pipeline.connectors.kafka_client import KafkaProducer, SerializeWrapper, client_errors, translated
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.errors import ConfigError, DeliveryError, OffkeyError, RecordError
from pipeline.protocols import Message, Placed

_FENCED = (client_errors.ProducerFencedError, client_errors.InvalidProducerEpochError)
_TOO_LARGE = (client_errors.MessageSizeTooLargeError, client_errors.RecordListTooLargeError)
_LARGEST_REQUEST_BYTES = 64 * 1024 * 1024
# What is open when a process dies keeps readers of the topics waiting for so long.
_TRANSACTION_TIMEOUT_MS = 10_000
# The broker often asks to come again while it still finishes the transaction before; the client would wait 100 ms.
_RETRY_BACKOFF_MS = 10
# The client refuses a record with neither key nor value, which Kafka allows; a key that serialises to none passes.
_NO_KEY = object()


class KafkaAtomicPublisher:
    """A transaction for each `publish`; see `pipeline.protocols.AtomicPublisher`.

    A failed transaction is not aborted: the client's abort may wait for ever, and the broker aborts what is open
    when its time is over or a publisher of this name comes. So after an error only `close` is of use.
    """

    def __init__(self, connection: Connection, name: str, timeout_s: float = 30.0) -> None:
        """Take over the name, and wait until what the publisher before this one had begun is settled.

        Raises:
            TransientError: the broker does not answer, or runs no transactions.
            ConfigError: there is no right to transactions of this name.
        """
        require_fast_checksums()
        self._connection, self._name, self._timeout_s = connection, name, timeout_s
        self._failed = False
        self._known: set[str] = set()
        with translated(f"Kafka at {connection.bootstrap_servers}"):
            self._producer = KafkaProducer(
                **connection.options(),
                acks="all",
                transactional_id=name,
                transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                retry_backoff_ms=_RETRY_BACKOFF_MS,
                max_request_size=_LARGEST_REQUEST_BYTES,
                delivery_timeout_ms=int(max(timeout_s, 11) * 1000),
                max_block_ms=max(REQUEST_TIMEOUT_MS, 2 * _TRANSACTION_TIMEOUT_MS),
                allow_auto_create_topics=False,
                key_serializer=SerializeWrapper(lambda key: None if key is _NO_KEY else key),
            )
        try:
            with translated(f"transactional id {name}"):
                self._producer.init_transactions()
        except BaseException:
            self._failed = True
            self.close()
            raise

    def publish(self, messages: Sequence[Placed]) -> None:
        if not messages:
            return
        self._require({placed.message.topic for placed in messages})
        try:
            self._send(messages)
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        """End the producer; what is open is left for the broker to abort."""
        if self._failed:
            # The client's `close` would wait for messages that cannot leave any more.
            self._producer._sender.force_close()
        self._producer.close(timeout=5)

    def _send(self, messages: Sequence[Placed]) -> None:
        try:
            self._producer.begin_transaction()
            futures = [self._queue(placed) for placed in messages]
            self._producer.flush(timeout=self._timeout_s)
            for future in futures:
                # A message lost inside a transaction does not keep it from being committed: ask for each.
                future.get(timeout=0)
            self._commit()
        except (client_errors.KafkaError, OSError, ValueError) as error:
            # Asked in a state of error, the client tells of that state and not of its cause.
            cause = self._producer._transaction_manager.last_error or error
            raise self._explained(cause, messages) from error

    def _explained(self, cause: Exception, messages: Sequence[Placed]) -> OffkeyError:
        topics = sorted({placed.message.topic for placed in messages})
        if isinstance(cause, _FENCED):
            return DeliveryError(
                f"transaction {self._name}: the broker has ended it: it took too long, or another process has its "
                "name; let that one end, then start again for what is left"
            )
        if isinstance(cause, _TOO_LARGE):
            # Those queued behind a refused message get its error as well: the largest is the cause.
            largest = max((placed.message for placed in messages), key=_size)
            return RecordError(
                f"{largest.origin or largest.topic}: {_size(largest)} bytes are more than topic {largest.topic} "
                "takes; raise its max.message.bytes, then start again"
            )
        if isinstance(cause, client_errors.AuthorizationError):
            refused = cause.args[0] if cause.args and isinstance(cause.args[0], set) else topics
            return ConfigError(f"no right to write to topic {', '.join(sorted(refused))}; grant it to this user")
        return DeliveryError(
            f"transaction {self._name}: not confirmed by {', '.join(topics)} ({cause!r}); is the broker at "
            f"{self._connection.bootstrap_servers} running? Start again for what is left"
        )

    def _queue(self, placed: Placed) -> Any:
        message = placed.message
        return self._producer.send(
            message.topic,
            value=message.value,
            key=_NO_KEY if message.key is None and message.value is None else message.key,
            headers=_headers(message),
            partition=placed.partition,
            timestamp_ms=placed.timestamp_ms,
        )

    def _commit(self) -> None:
        """Do what the client's `commit_transaction` does, but not wait without an end."""
        result = self._producer._transaction_manager.begin_commit()
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=self._timeout_s * 1000):
            raise client_errors.KafkaTimeoutError(f"no answer to the commit for {self._timeout_s:g} s")

    def _require(self, topics: set[str]) -> None:
        """Name a topic that is not there: inside a transaction it would only time out."""
        if new := topics - self._known:
            with closing(KafkaCluster(self._connection)) as cluster:
                for topic in sorted(new):
                    cluster.topic(topic, "WRITE")
            self._known |= new


def _headers(message: Message) -> list[tuple[str, bytes]]:
    # Kafka allows a header without a value, which the client reads but does not write: it goes out empty.
    return [(name, b"" if value is None else value) for name, value in message.headers]


def _size(message: Message) -> int:
    return len(message.key or b"") + len(message.value or b"")
