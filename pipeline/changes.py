"""Which series a partition's next part of a checkpoint has to hold: those changed since the last one.

A checkpoint is a chain of parts. Its first ones hold every series, the later ones those that changed, by the slot
that a series has in this process; a series' name stands in the first part that holds it. A part holds so many
series at most, for filling it stops the records. So the parts of a checkpoint are filled one a turn, with records
between them: a series that changes after it was written is simply written again. The last part takes all that is
left at once, and closes: only there do the parts together hold the state before one offset.

Where series change as quickly as they are written, that would never end. After each sweep over all of them that has
not left half as many, parts hold twice as many until one closes.

Whose a slot is who asks has to say, for one that waits to be given away has no series: `own_S`.

Legend: S slots.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.protocols import TopicPartition
from pipeline.stages.capacity import grown

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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
    """Series with their state, ascending."""
    named: IntArray
    """Those of them whose names the parts before do not hold."""
    dropped: IntArray
    """Slots whose series have gone; some may have others now."""
    closes: bool
    """With this part the chain holds the state as it stands."""
    whole: bool = False
    """The part alone does."""
    chain: object = None
    """That it was taken of."""


class Changes:
    """What of a stream's state is not in its checkpoints."""

    def __init__(self) -> None:
        self._dirty_S = np.zeros(0, np.bool_)
        self._named_S = np.zeros(0, np.bool_)
        self._chains: dict[TopicPartition, _Chain] = {}

    def own(self, slots: IntArray) -> None:
        """Note that these slots have new series; no part holds them yet."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        self._dirty_S[slots] = True

    def touch(self, slots: IntArray) -> None:
        """Note that the state of these series has changed."""
        self._dirty_S[slots] = True

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

    def take(self, partition: TopicPartition, own_S: BoolArray, most: int) -> Cut:
        """Return what the next part holds, as if it was written already; `put_back` takes that back.

        `own_S` tells which slots have the partition's series. `most` is how many of them a part may hold.
        """
        chain = self._chain(partition)
        size = min(len(own_S), len(self._dirty_S))
        slots, closes = self._chosen(chain, np.flatnonzero(self._dirty_S[:size] & own_S[:size]), most)
        named = slots[~self._named_S[slots]]
        self._dirty_S[slots], self._named_S[named] = False, True
        dropped, chain.dropped = np.array(chain.dropped, np.int64), []
        return Cut(slots, named, dropped, closes, chain=chain)

    def put_back(self, partition: TopicPartition, own_S: BoolArray, cut: Cut) -> None:
        """Take back what `take` noted: its part was not written. Without effect once another chain has begun."""
        chain = self._chains.get(partition)
        if chain is None or chain is not cut.chain:
            return
        chain.dropped = sorted({*cut.dropped.tolist(), *chain.dropped})
        self._dirty_S[cut.slots[own_S[cut.slots]]] = True
        # Storage that takes nothing makes no sweep.
        chain.next_slot = min(chain.next_slot, int(cut.slots.min(initial=chain.next_slot)))
        self._named_S[cut.named] = False

    def _chosen(self, chain: _Chain, waiting: IntArray, most: int) -> tuple[IntArray, bool]:
        if chain.swept and not (len(waiting) and waiting[-1] >= chain.next_slot):
            chain.times *= 2 if 2 * len(waiting) > chain.swept else 1
            chain.next_slot, chain.swept = 0, len(waiting)
        if len(waiting) <= most * chain.times:
            chain.next_slot, chain.swept, chain.times = 0, 0, 1
            return waiting, True
        chain.swept = chain.swept or len(waiting)
        ahead = int(np.searchsorted(waiting, chain.next_slot))
        slots = waiting[ahead : ahead + most * chain.times]
        chain.next_slot = int(slots[-1]) + 1
        return slots, False

    def _chain(self, partition: TopicPartition) -> _Chain:
        return self._chains.setdefault(partition, _Chain())

    def _reserve(self, size: int) -> None:
        more = grown(len(self._dirty_S), size) - len(self._dirty_S)
        self._dirty_S = np.append(self._dirty_S, np.zeros(more, np.bool_))
        self._named_S = np.append(self._named_S, np.zeros(more, np.bool_))
