"""Source, delivery and storage that are not there, for measuring what a worker takes before there is anything.

Polls are given as they would come over the network, uncompressed, and are unpacked by the Kafka client's own code:
both what unpacking costs and the records are those of a real worker. What a client does beside that (asking,
waiting, committing, sending) is not in it, nor what storage does with what is written.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.connectors.kafka_client import ClientPartition, FetchedRecords, MemoryRecords, MemoryRecordsBuilder
from pipeline.connectors.memory import MemoryStorage
from pipeline.protocols import Assignment, Message, OffsetRange, PartitionRecords, TopicPartition

Payload = tuple[bytes | None, bytes, int]
"""Key, value and Kafka timestamp in ms of a record."""
_FORMAT, _UNCOMPRESSED, _UNBOUNDED = 2, 0, 2**31 - 1
_PAUSE_S = 0.001
_SMALL_BYTES = 4_096
"""Objects that are kept: what a worker writes down for itself."""


class RehearsedSource:
    """One partition, whose next polls are those that `prepare` was given; see `pipeline.protocols.Source`."""

    def __init__(self, place: TopicPartition) -> None:
        self._place = place
        self._next_offset = 0
        self._polls: deque[tuple[int, bytes]] = deque()
        self._told = False

    def prepare(self, payloads: Iterable[Payload]) -> int:
        """Make one more poll of these records, one at least; return its size in bytes, as it is fetched."""
        builder = MemoryRecordsBuilder(_FORMAT, _UNCOMPRESSED, _UNBOUNDED, offset=self._next_offset)
        first = self._next_offset
        for key, value, timestamp_ms in payloads:
            builder.append(timestamp_ms, key, value)
            self._next_offset += 1
        builder.close()
        fetched = bytes(builder.buffer())
        self._polls.append((first, fetched))
        return len(fetched)

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        if not self._polls:
            # Who waits for storage gets a little time.
            time.sleep(min(timeout_s, _PAUSE_S))
            return ()
        first, fetched = self._polls.popleft()
        unpacked = FetchedRecords(first, ClientPartition(*self._place), MemoryRecords(fetched))
        return [PartitionRecords(self._place, unpacked.take())]

    def assignment(self) -> Assignment:
        gained = frozenset() if self._told else frozenset([self._place])
        self._told = True
        return Assignment(gained)

    def committed(self, partition: TopicPartition) -> int | None:
        return None

    def offsets(self, partition: TopicPartition) -> OffsetRange:
        return OffsetRange(0, self._next_offset)

    def most_records(self) -> int:
        return _UNBOUNDED

    def topic_id(self, topic: str) -> str:
        return topic

    def partition_count(self, topic: str) -> int:
        return 1

    def joined(self) -> bool:
        return True

    def start(self, partition: TopicPartition, offset: int) -> None:
        """Records come from the first one prepared."""

    def pause(self, partition: TopicPartition) -> None:
        """Nobody prepares more than is asked for."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nobody reads what is committed."""

    def lag(self) -> Mapping[TopicPartition, int]:
        return {self._place: 0}

    def close(self) -> None:
        self._polls.clear()


class RehearsedDelivery:
    """Takes what is sent, and counts it; see `pipeline.protocols.Delivery`."""

    def __init__(self) -> None:
        self.sent = 0

    def settle(self) -> None:
        """Nothing is ever undecided."""

    def send(self, message: Message) -> None:
        self.sent += 1

    def finish(self, offsets: Mapping[TopicPartition, Any], timeout_s: float) -> None:
        """All has arrived."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Nothing is on its way."""


class RehearsedStorage(MemoryStorage):
    """Takes what is written, and forgets all that is large."""

    def create(self, name: str, content: bytes | memoryview) -> bool:
        return len(content) > _SMALL_BYTES or super().create(name, content)
