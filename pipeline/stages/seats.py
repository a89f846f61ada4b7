"""Which slot a series has: given with its first record, kept until its partition goes or the series has to leave.

A series is keyed by (partition, name). Who leaves, and when, is told in `bounds`; the slot of a series that left is
given away only when its last points have been judged.

Legend: N rows, C names of a batch, U rows of series that have no slot, S slots.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, IntArray
from models.snapshots import Memory, copied, fresh
from pipeline.protocols import TopicPartition
from pipeline.stages.bounds import GONE, Bounds, Evicted, PartitionBounds, Reason
from pipeline.stages.capacity import grown
from pipeline.stages.decode import Batch
from pipeline.stages.name_index import NO_GROUP, NameIndex

_SPANS, _LAST, _ROWS = "spans", "last_row", "rows_seen"


class PlaceOfSlot(Sequence[TopicPartition]):
    """The partition of each slot, as a sequence."""

    def __init__(self) -> None:
        self.places: list[TopicPartition] = []
        self.number_S = np.zeros(0, np.uint16)

    def number(self, place: TopicPartition) -> int:
        """Return what stands for a partition."""
        if place not in self.places:
            self.places.append(place)
        return self.places.index(place)

    def are(self, place: TopicPartition, slot_K: IntArray) -> BoolArray:
        """Tell which of these slots are those of a partition."""
        return np.asarray(self.number_S[slot_K] == self.number(place), np.bool_)

    def __getitem__(self, slot: Any) -> Any:
        return self.places[self.number_S[slot]]

    def __len__(self) -> int:
        return len(self.number_S)


class Seats:
    """The slots of a stream's series."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._index = NameIndex()
        self.partitions = PlaceOfSlot()
        self._last_row_S = np.zeros(0, np.int64)
        """Number of each slot's last row in its partition, a late one too."""
        self._share: dict[TopicPartition, int | None] = {}
        self._of: dict[TopicPartition, PartitionBounds] = {}
        self._free: list[int] = []
        self._new: list[int] = []
        self._evicted: list[Evicted] = []
        self.moved = 0
        """Series that were first seen while another partition had one of the name."""

    def __len__(self) -> int:
        return sum(bound.held for bound in self._of.values())

    @property
    def capacity(self) -> int:
        return len(self._last_row_S)

    @property
    def names(self) -> Sequence[str]:
        """Name of each slot's series."""
        return self._index.names

    @property
    def evicted(self) -> Sequence[Evicted]:
        """Series that had to leave since `take_evicted`; they still have their slots."""
        return tuple(self._evicted)

    def held(self, partition: TopicPartition) -> IntArray:
        """Return the slots of a partition's series."""
        return self._index.of_group(self.partitions.number(partition))

    def are_held(self, partition: TopicPartition) -> BoolArray:
        """Tell of each slot whether it has a series of this partition."""
        return np.asarray(self._index.group_S == self.partitions.number(partition), np.bool_)

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Give a partition its share, as one of so many, of the series that the stream may hold."""
        self._share[partition] = self._bounds.share(partitions)
        if partition in self._of:
            self._of[partition].share = self._share[partition]

    def find(self, batch: Batch) -> IntArray:
        """Return the slot of each row; new series get one, and old ones leave where they have to."""
        bound, place = self._bound_of(batch.partition), self.partitions.number(batch.partition)
        slot_C = self._index.find(batch.series, place)
        slot_N = slot_C if batch.code_N is None else slot_C[batch.code_N]
        begins = bound.begins_span(batch.time_ms_N)
        unseated = np.flatnonzero(slot_N < 0)
        at_U = unseated if batch.code_N is None else batch.code_N[unseated]
        names_U = [batch.series[at] for at in at_U.tolist()]
        new = list(dict.fromkeys(names_U))
        if len(begins) or (bound.share is not None and new and bound.held + len(new) > bound.share):
            self._find_in_turn(batch, slot_N, bound, frozenset(begins.tolist()))
        else:
            if new:
                self.moved += self._elsewhere(new, place)
                slot_of = dict(zip(new, self.add_all(batch.partition, new).tolist(), strict=True))
                slot_N[unseated] = [slot_of[name] for name in names_U]
            # Of a series' rows in one poll the last one counts.
            self._last_row_S[slot_N] = bound.rows + 1 + np.arange(len(slot_N))
        bound.rows += len(slot_N)
        return slot_N

    def add_all(self, partition: TopicPartition, names: Sequence[str]) -> IntArray:
        """Give series that have none slots of their own."""
        slots, place = self._take(len(names)), self.partitions.number(partition)
        self._index.add(slots, names, place)
        self.partitions.number_S[slots] = place
        self._last_row_S[slots] = 0
        self._bound_of(partition).held += len(slots)
        return slots

    def take_new(self) -> IntArray:
        """Return the slots given to series since the last call."""
        new, self._new = self._new, []
        return np.array(new, np.int64)

    def take_evicted(self) -> IntArray:
        """Return the slots whose series had to leave; they are free from here on."""
        freed = np.array([each.slot for each in self._evicted], np.int64)
        self._evicted = []
        self._give_back(freed)
        return freed

    def drop(self, partition: TopicPartition) -> IntArray:
        """Forget a partition's series; return the slots that became free."""
        freed = self.held(partition)
        self.release(partition, freed)
        self._of.pop(partition, None)
        return freed

    def release(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget some of a partition's series; their slots are free from here on."""
        self._index.hide(slots)
        self._give_back(slots)
        self._bound_of(partition).held -= len(slots)

    def snapshot_rows(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return when each of these series was last seen, for a checkpoint."""
        return {_LAST: copied(_LAST, self._last_row_S[slots], memory)}

    def snapshot(self, partition: TopicPartition) -> dict[str, npt.NDArray[Any]]:
        """Return what beside that decides who of a partition leaves."""
        bound = self._bound_of(partition)
        spans = np.array(bound.spans, np.int64).reshape(-1, 2)
        return {_ROWS: np.array([bound.rows]), _SPANS: spans}

    def restore_rows(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot_rows` returned; of an earlier version all were seen equally long ago."""
        self._last_row_S[slots] = arrays.get(_LAST, 0)

    def restore(self, partition: TopicPartition, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot` returned."""
        if _ROWS not in arrays:
            return
        bound = self._bound_of(partition)
        bound.rows = int(arrays[_ROWS][0])
        if self._bounds.ttl_ms:
            bound.spans = [(int(number), int(first)) for number, first in arrays[_SPANS]]

    def _find_in_turn(self, batch: Batch, slot_N: IntArray, bound: PartitionBounds, begins: frozenset[int]) -> None:
        """Give each row its slot in their order, for each may have a series leave."""
        index, place = self._index, self.partitions.number(batch.partition)
        added: dict[str, int] = {}
        left: list[int] = []
        offsets, inner, times_ms = (a.tolist() for a in (batch.offset_N, batch.place_in_record_N, batch.time_ms_N))

        def leave(slot: int, at: int, reason: Reason) -> None:
            if added.get(index.names[slot]) == slot:
                del added[index.names[slot]]
            else:
                left.append(slot)
            index.group_S[slot], self._last_row_S[slot] = NO_GROUP, GONE
            bound.held -= 1
            self._evicted.append(Evicted(slot, at, offsets[at], inner[at], reason))

        for at, (slot, name) in enumerate(zip(slot_N.tolist(), batch.series_of_rows, strict=True)):
            number = bound.rows + 1 + at
            before = bound.begin_span(times_ms[at], number) if at in begins else None
            if before is not None:
                slots = index.of_group(place)
                for outlived in slots[self._last_row_S[slots] < before].tolist():
                    leave(outlived, at, "series_ttl")
            if slot < 0 or self._last_row_S[slot] == GONE:
                slot = added.get(name, -1)
            if slot < 0:
                while bound.share is not None and bound.held >= bound.share:
                    oldest = bound.oldest(self._last_row_S, lambda: index.of_group(place), index.names)
                    leave(oldest, at, "max_series")
                slot = added[name] = int(self._take(1)[0])
                index.names[slot], index.group_S[slot], self.partitions.number_S[slot] = name, place, place
                bound.held += 1
            self._last_row_S[slot] = number
            slot_N[at] = slot
        index.hide(np.array(left, np.int64))
        self.moved += self._elsewhere(list(added), place)
        index.add(np.array(list(added.values()), np.int64), list(added), place)

    def _elsewhere(self, names: Sequence[str], place: int) -> int:
        """Count the names that other partitions have series of."""
        found_N = np.zeros(len(names), bool)
        for number in range(len(self.partitions.places)):
            if number != place:
                found_N |= self._index.find(names, number) >= 0
        return int(found_N.sum())

    def _bound_of(self, partition: TopicPartition) -> PartitionBounds:
        if partition not in self._of:
            share = self._share.get(partition, self._bounds.share(1))
            self._of[partition] = PartitionBounds(share, self._bounds.ttl_ms)
        return self._of[partition]

    def _take(self, count: int) -> IntArray:
        """Return free slots; there are more where they are too few."""
        lacking = count - len(self._free)
        if lacking > 0:
            before = self.capacity
            after = grown(before, before + lacking)
            self._last_row_S = np.append(self._last_row_S, np.zeros(after - before, np.int64))
            self.partitions.number_S = np.append(self.partitions.number_S, np.zeros(after - before, np.uint16))
            self._index.grow(after)
            self._free = [*reversed(range(before, after)), *self._free]
        taken = [self._free.pop() for _ in range(count)]
        self._new += taken
        return np.array(taken, np.int64)

    def _give_back(self, slots: IntArray) -> None:
        self._index.forget(slots)
        self._free += slots[::-1].tolist()
