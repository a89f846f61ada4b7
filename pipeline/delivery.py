"""At least once: everything is confirmed, then the offsets are committed.

A crash between the two publishes the same alerts again, with equal ids. The other way of delivery, exactly once, is
`pipeline.connectors.kafka_transactions`.
"""

from collections.abc import Mapping

from pipeline.protocols import Message, Publisher, Source, TopicPartition


class AtLeastOnce:
    """See `pipeline.protocols.Delivery`."""

    def __init__(self, publisher: Publisher, source: Source) -> None:
        self._publisher, self._source = publisher, source
        self._sent = 0

    def settle(self) -> None:
        """Nothing is ever undecided: a message that may or may not have arrived is sent again."""

    def send(self, message: Message) -> None:
        self._publisher.send(message)
        self._sent += 1

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        sent, self._sent = self._sent, 0
        if sent:
            self._publisher.flush(timeout_s)
        if offsets:
            self._source.commit(offsets)

    def close(self, timeout_s: float = 5.0) -> None:
        self._publisher.close(timeout_s)
