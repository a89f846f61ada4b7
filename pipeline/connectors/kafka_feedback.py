"""The topic of feedback: read whole and then followed, outside any group, without waiting."""

from collections.abc import Sequence
from contextlib import closing

from pipeline.connectors.connection import Connection, require_fast_checksums
from pipeline.connectors.kafka_client import READING, ClientPartition, KafkaConsumer, translated
from pipeline.connectors.kafka_contact import client_options
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.protocols import PartitionRecords, TopicPartition


class KafkaFeedback:
    """See `pipeline.feedback.FeedbackTopic`.

    The partitions are those that the topic has when it is opened: with more, incidents would move among them.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        """Open it, which waits for the broker.

        Raises:
            ConfigError: the topic is not there, or there is no right to read it.
            TransientError: the broker does not answer.
        """
        require_fast_checksums()
        self._topic = topic
        with closing(KafkaCluster(connection)) as cluster:
            partitions = range(cluster.topic(topic, "READ").partitions)
        places = [ClientPartition(topic, number) for number in partitions]
        with translated(f"topic {topic}"):
            self._consumer = KafkaConsumer(
                **client_options(connection), **READING, group_id=None, auto_offset_reset="earliest"
            )
            try:
                self._consumer.assign(places)
                begin, end = self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
                for place in places:
                    self._consumer.seek(place, begin[place])
            except BaseException:
                self._consumer.close()
                raise
        self._left = {place: end[place] for place in places if end[place] > begin[place]}
        """Where what the topic held when it was opened ends, of the partitions of which some is still to come."""

    def poll(self) -> Sequence[PartitionRecords]:
        with translated(f"topic {self._topic}"):
            polled = self._consumer.poll(timeout_ms=0)
            # What compaction has taken away moves the position too.
            reached = [place for place, end in self._left.items() if self._consumer.position(place) >= end]
        for place in reached:
            del self._left[place]
        return [PartitionRecords(TopicPartition(*place), records) for place, records in polled.items() if records]

    def caught_up(self) -> bool:
        return not self._left

    def close(self) -> None:
        self._consumer.close()
