"""How many series a partition may hold, and for how long: which one leaves, and when.

A partition's *share* is the stream's `max_series` divided by the partitions that the topic had when the stream
began on it. A new series beyond it takes the place of the one that was least recently seen, by its rows. With
`series_ttl` a series leaves that its partition has not seen for so long, by the time of its records: their highest
event time so far. Time is cut into spans of a 64th of that, and a record that begins a new one is when series
leave, so one leaves after `series_ttl` and two spans at most.

A series is seen with every row that was decoded, late ones too. A partition's rows are numbered in the order of
offset and row in the record. Their order and their event times decide alone, row by row, so neither polls, nor a
restart, nor how rows are put into records change who leaves when. Of several that a state says nothing of the first
by name leaves.

Legend: N rows, S slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from models.arrays import IntArray

SPANS = 64
"""Spans of a `series_ttl`."""
_LEAST_LISTED, _LISTED_SHARE = 1024, 64
"""Series that are listed together as the next to leave: looking for each by itself would read all numbers."""

Reason = Literal["max_series", "series_ttl"]
GONE = -2
"""Number of the last row of a slot whose series has left."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a stream allows."""

    max_series: int | None = None
    """Over all partitions; None: any number."""
    ttl_ms: int | None = None
    """None: series leave only where there are too many."""

    def share(self, partitions: int) -> int | None:
        """Return how many series each of so many partitions may hold."""
        return None if self.max_series is None else -(-self.max_series // partitions)


class Evicted(NamedTuple):
    """A series that had to leave, and the row at which it did."""

    slot: int
    place: int
    """Where the row stands in its batch."""
    offset: int
    row: int
    """Row in the record at that offset."""
    reason: Reason


@dataclass
class PartitionBounds:
    """What a partition holds, and who leaves next."""

    share: int | None
    ttl_ms: int | None
    held: int = 0
    rows: int = 0
    """Rows so far: the first is number 1."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """(number of a span of time, number of its first row) of the last ones; those without a row are none."""
    _next: list[tuple[int, str, int]] = field(default_factory=list)
    """(number of the last row, name, slot) of those seen least recently, the last of the list least of all."""

    def begins_span(self, time_ms_N: IntArray) -> IntArray:
        """Return the places of rows that begin a span of time."""
        if self.ttl_ms is None or not len(time_ms_N):
            return np.zeros(0, np.int64)
        before = self.spans[-1][0] if self.spans else -1
        span_N = np.maximum.accumulate(np.maximum(self._span(time_ms_N), before))
        return np.flatnonzero(np.diff(span_N, prepend=before))

    def begin_span(self, time_ms: int, number: int) -> int | None:
        """Go on to the span of this row; return the number before which a series was seen for too long ago."""
        span = int(self._span(np.array([time_ms]))[0])
        self.spans.append((span, number))
        fresh = [(each, first) for each, first in self.spans if each >= span - SPANS]
        outlived = len(fresh) < len(self.spans)
        self.spans = fresh
        return fresh[0][1] if outlived else None

    def oldest(self, last_row_S: IntArray, held: Callable[[], IntArray], names: Sequence[str]) -> int:
        """Return the slot that was seen least recently; it is asked for `held` slots now and then."""
        while True:
            while self._next:
                number, name, slot = self._next.pop()
                # Seen since, or another series by now: it is not the least recent any more.
                if last_row_S[slot] == number and names[slot] == name:
                    return slot
            self._list(last_row_S, held(), names)

    def _list(self, last_row_S: IntArray, slots: IntArray, names: Sequence[str]) -> None:
        row_S = last_row_S[slots]
        listed = min(max(_LEAST_LISTED, len(slots) // _LISTED_SHARE), len(slots))
        latest = np.partition(row_S, listed - 1)[listed - 1]
        chosen = slots[row_S <= latest]
        self._next = sorted(((int(last_row_S[slot]), names[slot], slot) for slot in chosen.tolist()), reverse=True)

    def _span(self, time_ms_N: IntArray) -> IntArray:
        assert self.ttl_ms is not None
        return time_ms_N // max(self.ttl_ms // SPANS, 1)
