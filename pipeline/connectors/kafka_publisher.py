"""Alerts and dead letters on their way to Kafka: nothing counts as sent before the broker has confirmed it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from pipeline.connectors.connection import REQUEST_TIMEOUT_MS, Connection, require_fast_checksums
from pipeline.connectors.kafka_client import KafkaProducer, SerializeWrapper, client_errors, translated
from pipeline.connectors.kafka_contact import client_options
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.errors import ConfigError, DeliveryError, OffkeyError, RecordError, Refused, TransientError
from pipeline.protocols import Message

_TOO_LARGE = (client_errors.MessageSizeTooLargeError, client_errors.RecordListTooLargeError)
_LARGEST_REQUEST_BYTES = 64 * 1024 * 1024
# The client refuses a record with neither key nor value, which Kafka allows; a key that serialises to none passes.
_NO_KEY = object()


class KafkaPublisher:
    """Alerts and dead letters on their way out; see `pipeline.protocols.Publisher`."""

    def __init__(self, connection: Connection, delivery_timeout_s: float = 30.0, **options: Any) -> None:
        """Connect; `options` are further ones of the client's producer."""
        require_fast_checksums()
        self._connection, self._delivery_timeout_s = connection, delivery_timeout_s
        self._options = options
        self._sent: list[tuple[Message, Any]] = []
        self._producer: KafkaProducer | None = self._new_producer()

    def send(self, message: Message) -> None:
        key = _NO_KEY if message.key is None and message.value is None else message.key
        # Kafka allows a header without a value, which the client reads but does not write: it goes out empty.
        headers = [(name, b"" if value is None else value) for name, value in message.headers]
        with self._delivering(message):
            future = self.producer().send(
                message.topic,
                value=message.value,
                key=key,
                headers=headers,
                partition=message.partition,
                timestamp_ms=message.timestamp_ms,
            )
        self._sent.append((message, future))

    def flush(self, timeout_s: float) -> None:
        try:
            self.confirm(timeout_s)
        except OffkeyError:
            # A producer that lost a message may refuse all that follow, to keep their order: begin with a new one.
            self.discard()
            raise

    def producer(self) -> KafkaProducer:
        """Return the client's producer, a new one after `discard`."""
        if self._producer is None:
            try:
                self._producer = self._new_producer()
            except Refused as error:
                # It was let in before: whoever renews passwords or certificates may not be done yet.
                raise TransientError(str(error)) from error
        return self._producer

    def confirm(self, timeout_s: float) -> None:
        """Do as `flush` does, but leave the producer as it is."""
        sent, self._sent = self._sent, []
        if self._producer is not None:
            self._confirm(self._producer, sent, timeout_s)

    def discard(self) -> None:
        """Give up what is not confirmed, and the producer with it."""
        self._sent.clear()
        if self._producer is not None:
            _end(self._producer, 0)
            self._producer = None

    def close(self, timeout_s: float = 5.0) -> None:
        if self._producer is not None:
            _end(self._producer, timeout_s)

    def _new_producer(self) -> KafkaProducer:
        with translated(f"Kafka at {self._connection.bootstrap_servers}"):
            return KafkaProducer(
                **client_options(self._connection),
                **self._options,
                acks="all",
                max_request_size=_LARGEST_REQUEST_BYTES,
                delivery_timeout_ms=int(max(self._delivery_timeout_s, 11) * 1000),
                max_block_ms=REQUEST_TIMEOUT_MS,
                allow_auto_create_topics=False,
                key_serializer=SerializeWrapper(lambda key: None if key is _NO_KEY else key),
            )

    def _confirm(self, producer: KafkaProducer, sent: Sequence[tuple[Message, Any]], timeout_s: float) -> None:
        try:
            _flush(producer, timeout_s)
        except client_errors.KafkaTimeoutError as error:
            for topic in {message.topic for message, _ in sent}:
                self._require_topic(topic)
            raise DeliveryError(
                f"{len(sent)} messages were not confirmed within {timeout_s:g} s; "
                f"is the broker at {self._connection.bootstrap_servers} running?"
            ) from error
        # In a transaction those queued behind a refused message get its error as well: of one that is too large,
        # the largest is the cause.
        for message, future in sorted(sent, key=lambda each: _size(each[0]), reverse=True):
            with self._delivering(message):
                future.get(timeout=0)

    @contextmanager
    def _delivering(self, message: Message) -> Iterator[None]:
        about, topic = f"{message.origin}: " if message.origin else "", message.topic
        try:
            yield
        except _TOO_LARGE as error:
            raise RecordError(
                f"{about}{_size(message)} bytes are more than topic {topic} takes; raise its max.message.bytes, "
                "then start again"
            ) from error
        except client_errors.TransactionalIdAuthorizationFailedError:
            # A message finds out first that the right was taken away.
            with translated(f"transaction {self._options['transactional_id']}"):
                raise
        except client_errors.AuthorizationError as error:
            refused = error.args[0] if error.args and isinstance(error.args[0], set) else {topic}
            if topic not in refused:
                about, topic = "", min(refused)
            raise ConfigError(f"{about}no right to write to topic {topic}; grant it to this user") from error
        except (client_errors.UnknownTopicOrPartitionError, client_errors.InvalidTopicError) as error:
            raise ConfigError(f"{about}topic {topic} is not there; create it or set it under `topics`") from error
        except TransientError as error:
            raise DeliveryError(f"{about}not sent: {error}") from error
        except client_errors.KafkaTimeoutError as error:
            self._require_topic(topic)
            raise DeliveryError(
                f"{about}not confirmed by topic {topic} ({error}); "
                f"is the broker at {self._connection.bootstrap_servers} running?"
            ) from error
        except (client_errors.KafkaError, OSError, ValueError) as error:
            if client_errors.ClusterAuthorizationFailedError.__name__ in str(error):
                # Who may write to no topic at all is refused as a producer, in a text of the client's.
                raise ConfigError(
                    f"{about}no right to write to any topic, {topic} neither; grant it to this user"
                ) from error
            # ValueError: the client forgot the topic between its look-up and the choice of a partition.
            raise DeliveryError(f"{about}not confirmed by topic {topic} ({error!r})") from error

    def _require_topic(self, topic: str) -> None:
        """Tell a topic that is gone from a broker that is, which the caller reports: both only time out."""
        quick = replace(self._connection, connect_timeout_s=2.0)
        with suppress(TransientError, Refused), closing(KafkaCluster(quick)) as cluster:
            cluster.topic(topic, "WRITE")


def _size(message: Message) -> int:
    return len(message.value or b"") + len(message.key or b"")


def _flush(producer: KafkaProducer, timeout_s: float) -> None:
    """Wait until everything sent is confirmed or refused.

    A batch that is larger than its topic takes is split in two. Who waits for the whole is then told `UnknownError`
    and has to wait for the parts.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            producer.flush(timeout=max(deadline_s - time.monotonic(), 0))
        except client_errors.UnknownError:
            if time.monotonic() >= deadline_s:
                raise client_errors.KafkaTimeoutError("a batch was split until the time was over") from None
        else:
            return


def _end(producer: KafkaProducer, timeout_s: float) -> None:
    try:
        _flush(producer, timeout_s)
    except client_errors.KafkaTimeoutError:
        # With messages unsent, the client's `close` gives up before it has closed anything: abort them first.
        producer._sender.force_close()
        timeout_s = 5
        _flush(producer, timeout_s)
    producer.close(timeout=timeout_s)
