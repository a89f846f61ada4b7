"""A topic's newest records, read outside any group: for training, checks and the demo."""

from collections.abc import Iterator
from contextlib import closing

from pipeline.connectors.connection import REQUEST_TIMEOUT_MS, Connection, require_fast_checksums
from pipeline.connectors.kafka_client import READING, ClientPartition, KafkaConsumer, translated
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.errors import TransientError
from pipeline.protocols import PartitionRecords, TopicPartition

_PORTION_MS = 500


def history(connection: Connection, topic: str, max_records: int) -> Iterator[PartitionRecords]:
    """Read a topic's newest retained records up to its present end, outside any group.

    `max_records` is shared out evenly; a partition gives one record at least, so that none goes unseen.

    Raises:
        TransientError: the broker stopped answering.
        ConfigError: the topic is not there, or there is no right to read it.
    """
    require_fast_checksums()
    with closing(KafkaCluster(connection)) as cluster:
        places = [ClientPartition(topic, number) for number in range(cluster.topic(topic, "READ").partitions)]
    with translated(f"topic {topic}"):
        consumer = KafkaConsumer(
            **connection.options(), **READING, group_id=None, auto_offset_reset="earliest", max_poll_records=4000
        )
    try:
        with translated(f"topic {topic}"):
            consumer.assign(places)
            most = max(max_records // len(places), 1)
            begin, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
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
            if silent_ms >= REQUEST_TIMEOUT_MS:
                raise TransientError(f"topic {topic}: no records for {REQUEST_TIMEOUT_MS / 1000:g} s; try again")
            left -= reached
    finally:
        consumer.close()
