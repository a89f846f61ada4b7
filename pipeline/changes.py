"""What a partition's next part of a checkpoint has to hold: which series changed since the last one, and how much.

A checkpoint is a chain of parts. Its first ones hold every series, the later ones those that changed, by the slot
that a series has in this process; a series' name stands in the first part that holds it. Of a series that the parts
before hold, only its new rows are written, beside the numbers that every point moves: that is a tenth of its state.
It is written whole again where more has changed than rows were added, or so many rows are new that little is saved.

A part has so much room, for filling it stops the records. So the parts of a checkpoint are filled one a turn, with
records between them: a series that changes after it was written is simply written again. The last part takes all
that is left at once, and closes: only there do the parts together hold the state before one offset.

Where series change as quickly as they are written, that would never end. After each sweep over all of them that has
not left half as many, parts hold twice as many until one closes.

Whose a slot is who asks has to say, for one that waits to be given away has no series: `own_S`.

Legend: S slots.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, IntArray
from pipeline.protocols import TopicPartition
from pipeline.stages.capacity import grown

RowArray = npt.NDArray[np.uint8]

_ALL = 255
"""Stands for new rows that are not counted: all of the series is new."""
MOST_ADDED = _ALL - 1
"""New rows of a series that can be counted."""


class Room(NamedTuple):
    """How much a part holds, in bytes; one series at least."""

    most: int
    whole: int
    """What a series takes of it with its whole state."""
    added: int
    """What one takes of which the parts before hold the rest."""


@dataclass(eq=False)
class _Chain:
    """What is known of the parts of one partition."""

    dropped: list[int] = field(default_factory=list)
    """Slots that the parts name and whose series have gone."""
    next_slot: int = 0
    """Where the sweep goes on."""
    swept: int = 0
    """Series that waited when the sweep began; 0: none is under way."""
    times: int = 1
    """By how much parts are larger than asked."""


@dataclass(frozen=True)
class Cut:
    """What a part holds."""

    slots: IntArray
    """Series with their whole state, ascending."""
    named: IntArray
    """Those of them whose names the parts before do not hold."""
    dropped: IntArray
    """Slots whose series have gone; some may have others now."""
    closes: bool
    """With this part the chain holds the state as it stands."""
    added: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Series of which the parts before hold the rest, ascending."""
    rows: RowArray = field(default_factory=lambda: np.zeros(0, np.uint8))
    """How many new rows each of them has; 0 where other numbers have changed."""
    whole: bool = False
    """The part alone does."""
    chain: object = None
    """That it was taken of."""


class Changes:
    """What of a stream's state is not in its checkpoints."""

    def __init__(self, most_rows: int) -> None:
        """With more than `most_rows` new rows a series is written whole."""
        self._most_rows = min(most_rows, MOST_ADDED)
        self._dirty_S = np.zeros(0, np.bool_)
        self._named_S = np.zeros(0, np.bool_)
        self._rows_S = np.zeros(0, np.uint8)
        """Rows that are new since the part that holds the series last."""
        self._chains: dict[TopicPartition, _Chain] = {}

    def own(self, slots: IntArray) -> None:
        """Note that these slots have new series; no part holds them yet."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        self._dirty_S[slots] = True

    def touch(self, slots: IntArray) -> None:
        """Note that the state of these series has changed."""
        self._dirty_S[slots] = True

    def add_rows(self, slots: IntArray, rows_S: IntArray) -> None:
        """Note that these series, each of which stands here once, have so many new rows."""
        self._rows_S[slots] = np.minimum(self._rows_S[slots] + rows_S, _ALL)

    def alter(self, slots: IntArray) -> None:
        """Note that more of these series has changed than what comes with each row."""
        self._rows_S[slots] = _ALL

    def release(self, partition: TopicPartition, slots: IntArray) -> None:
        """Note that the series of these slots have gone."""
        self._chain(partition).dropped += slots[self._named_S[slots]].tolist()
        self._dirty_S[slots], self._named_S[slots] = False, False

    def forget(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget a partition and its slots."""
        self._dirty_S[slots], self._named_S[slots] = False, False
        self._chains.pop(partition, None)

    def begin_chain(self, partition: TopicPartition, own_S: BoolArray) -> None:
        """Have the next parts hold all series of a partition, whose slots `own_S` tells."""
        self._chains[partition] = _Chain()
        size = min(len(own_S), len(self._dirty_S))
        self._dirty_S[:size] |= own_S[:size]
        self._named_S[:size] &= ~own_S[:size]

    def take(self, partition: TopicPartition, own_S: BoolArray, room: Room) -> Cut:
        """Return what the next part holds, as if it was written already; `put_back` takes that back.

        `own_S` tells which slots have the partition's series.
        """
        chain = self._chain(partition)
        size = min(len(own_S), len(self._dirty_S))
        waiting_S = self._dirty_S[:size] & own_S[:size]
        added_S = waiting_S & self._named_S[:size] & (self._rows_S[:size] <= self._most_rows)
        slots, closes = self._chosen(chain, waiting_S, added_S, room)
        added_C = added_S[slots]
        whole, added = slots[~added_C], slots[added_C]
        cut = Cut(
            whole,
            named=whole[~self._named_S[whole]],
            dropped=np.array(chain.dropped, np.int64),
            closes=closes,
            added=added,
            rows=self._rows_S[added],
            chain=chain,
        )
        self._dirty_S[slots], self._named_S[slots], self._rows_S[slots], chain.dropped = False, True, 0, []
        return cut

    def put_back(self, partition: TopicPartition, own_S: BoolArray, cut: Cut) -> None:
        """Take back what `take` noted: its part was not written. Without effect once another chain has begun."""
        chain = self._chains.get(partition)
        if chain is None or chain is not cut.chain:
            return
        chain.dropped = sorted({*cut.dropped.tolist(), *chain.dropped})
        whole, own_C = cut.slots[own_S[cut.slots]], own_S[cut.added]
        added = cut.added[own_C]
        self._dirty_S[whole], self._dirty_S[added] = True, True
        self.alter(whole)
        self.add_rows(added, cut.rows[own_C].astype(np.int64))
        # Storage that takes nothing makes no sweep.
        chain.next_slot = int(np.append(cut.slots, cut.added).min(initial=chain.next_slot))
        self._named_S[cut.named] = False

    def _chosen(self, chain: _Chain, waiting_S: BoolArray, added_S: BoolArray, room: Room) -> tuple[IntArray, bool]:
        """Return (slots for the next part, whether these are all that wait)."""
        waiting, added = int(np.count_nonzero(waiting_S)), int(np.count_nonzero(added_S))
        if chain.swept and not waiting_S[chain.next_slot :].any():
            chain.times *= 2 if 2 * waiting > chain.swept else 1
            chain.next_slot, chain.swept = 0, waiting
        most_bytes = max(room.most, room.whole) * chain.times
        if added * room.added + (waiting - added) * room.whole <= most_bytes:
            chain.next_slot, chain.swept, chain.times = 0, 0, 1
            return np.flatnonzero(waiting_S), True
        chain.swept = chain.swept or waiting
        slots = chain.next_slot + np.flatnonzero(waiting_S[chain.next_slot :])[: most_bytes // room.added]
        taken_C = np.cumsum(np.where(added_S[slots], room.added, room.whole))
        slots = slots[: np.searchsorted(taken_C, most_bytes, side="right")]
        chain.next_slot = int(slots[-1]) + 1
        return slots, False

    def _chain(self, partition: TopicPartition) -> _Chain:
        return self._chains.setdefault(partition, _Chain())

    def _reserve(self, size: int) -> None:
        more = grown(len(self._dirty_S), size) - len(self._dirty_S)
        self._dirty_S = np.append(self._dirty_S, np.zeros(more, np.bool_))
        self._named_S = np.append(self._named_S, np.zeros(more, np.bool_))
        self._rows_S = np.append(self._rows_S, np.zeros(more, np.uint8))
