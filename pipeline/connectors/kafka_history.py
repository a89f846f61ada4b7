"""A topic's records, read outside any group: for training, checks, the demo and dead letters."""

import sys
from collections.abc import Iterator
from contextlib import closing

from pipeline.connectors.connection import REQUEST_TIMEOUT_MS, Connection, require_fast_checksums
from pipeline.connectors.kafka_client import READING, ClientPartition, KafkaConsumer, translated
from pipeline.connectors.kafka_contact import client_options
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.errors import TransientError
from pipeline.protocols import PartitionRecords, TopicPartition

_PORTION_MS = 500
_LONGEST_TRANSACTION_MS = 30_000


def history(
    connection: Connection, topic: str, max_records: int, *, behind_open: bool = False
) -> Iterator[PartitionRecords]:
    """Read a topic's newest retained records up to its present end, outside any group.

    `max_records` is shared out evenly; a partition gives one record at least, so that none goes unseen.
    `behind_open`: the present end is that of all records, and transactions that are open before it are waited for.

    Raises:
        TransientError: the broker stopped answering.
        ConfigError: the topic is not there, or there is no right to read it.
    """
    require_fast_checksums()
    with closing(KafkaCluster(connection)) as cluster:
        places = [ClientPartition(topic, number) for number in range(cluster.topic(topic, "READ").partitions)]
    with translated(f"topic {topic}"):
        consumer = KafkaConsumer(
            **client_options(connection),
            **READING,
            group_id=None,
            auto_offset_reset="earliest",
            max_poll_records=4000,
        )
    try:
        with translated(f"topic {topic}"):
            consumer.assign(places)
            most = max(max_records // len(places), 1)
            begin, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
            if behind_open:
                end = _end_of_all(connection, places)
            for place in places:
                consumer.seek(place, max(begin[place], end[place] - most))
        left = {place for place in places if end[place] > begin[place]}
        silent_ms = 0
        while left:
            # In small portions: an end of aborted transactions is reached without a record that a poll returns for.
            with translated(f"topic {topic}"):
                polled = consumer.poll(timeout_ms=_PORTION_MS)
            for place, records in polled.items():
                # Whole, even past the end asked for: see `KafkaSource.offsets` on where an end may lie.
                yield PartitionRecords(TopicPartition(*place), records)
            with translated(f"topic {topic}"):
                reached = {place for place in left if consumer.position(place) >= end[place]}
            silent_ms = 0 if polled or reached else silent_ms + _PORTION_MS
            if silent_ms >= (_LONGEST_TRANSACTION_MS if behind_open else REQUEST_TIMEOUT_MS):
                raise TransientError(f"topic {topic}: no records for {silent_ms / 1000:g} s; try again")
            left -= reached
    finally:
        consumer.close()


def _end_of_all(connection: Connection, places: list[ClientPartition]) -> dict[ClientPartition, int]:
    """Return where each partition ends, transactions that are still open included."""
    options = {**client_options(connection), **READING, "isolation_level": "read_uncommitted"}
    with closing(KafkaConsumer(**options, group_id=None)) as consumer:
        found: dict[ClientPartition, int] = consumer.end_offsets(places)
    return found


class KafkaLog:
    """All committed records of a topic; see `pipeline.protocols.Log`."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection, self._topic = connection, topic

    def retained(self) -> int:
        with closing(KafkaCluster(self._connection)) as cluster:
            partitions = range(cluster.topic(self._topic, "READ").partitions)
        places = [ClientPartition(self._topic, number) for number in partitions]
        options = {**client_options(self._connection), **READING}
        with translated(f"topic {self._topic}"), closing(KafkaConsumer(**options, group_id=None)) as consumer:
            begin, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
        return sum(end[place] - begin[place] for place in places)

    def read(self) -> Iterator[PartitionRecords]:
        return history(self._connection, self._topic, sys.maxsize, behind_open=True)
