"""How many records to ask the client for, so that what a poll holds keeps to a bound in bytes.

The client takes a number of records and no number of bytes. What it has fetched is bounded (`fetch_max_bytes`), but
records are packed there, and become ten times as large, or a thousand times. So the number follows from the size of
the records of the poll before; it begins low and grows fourfold at most, for the first records may be large ones.
A batch of the producer is unpacked whole by the client: the bound holds within one such batch, and within one poll
where records become larger at once.
"""

from collections.abc import Sequence

from pipeline.protocols import PartitionRecords

_FIRST_BYTES = 1024 * 1024
"""What the first records are taken for: most topics take none that is larger."""
_GROWTH = 4
_LOOKED_AT = 256
"""Records of each partition whose size is looked at."""
_OBJECT_BYTES = 400
"""What the client's object for a record takes beside key and value."""


class PollSize:
    """The number of records to ask for next."""

    def __init__(self, most_records: int, most_bytes: int) -> None:
        self._most_records, self._most_bytes = most_records, most_bytes
        self.records = max(1, min(most_records, most_bytes // _FIRST_BYTES))

    def note(self, arrived: Sequence[PartitionRecords]) -> None:
        """Learn from a poll."""
        records, size_bytes = 0, 0.0
        for each in arrived:
            count = len(each.records)
            looked_at = each.records[:: -(-count // _LOOKED_AT)]
            seen_bytes = sum(len(record.key or b"") + len(record.value or b"") for record in looked_at)
            records += count
            size_bytes += count * (_OBJECT_BYTES + seen_bytes / len(looked_at))
        if records:
            fit = int(self._most_bytes * records / size_bytes)
            self.records = max(1, min(fit, _GROWTH * self.records, self._most_records))
