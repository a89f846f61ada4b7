"""Raw records for tests, as a source would return them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.protocols import PartitionRecords, TopicPartition

PLACE = TopicPartition("metrics", 0)
NOW_MS = 1_700_000_000_000


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def record(
    value: Mapping[str, Any] | bytes | None,
    *,
    key: bytes | None = b"web-1",
    offset: int = 0,
    timestamp: int = NOW_MS,
) -> Record:
    encoded = json.dumps(value).encode() if isinstance(value, Mapping) else value
    return Record(offset, timestamp, key, encoded)


def arrived(records: Iterable[Record], place: TopicPartition = PLACE) -> PartitionRecords:
    """Number the records by their order and put them into one partition."""
    return PartitionRecords(place, [each._replace(offset=offset) for offset, each in enumerate(records)])
