"""Names -> slots, for very many names: a hash table in two arrays.

A dictionary takes 31 bytes a name for its table and 28 more for the number of the slot, and answers for a million
names in 390 ns each, for every look-up waits for memory on its own. Here a name takes 12 to 20 bytes beside its
text, and all names of a poll are looked up together, in 100 ns each. Slots are found by linear probing (Knuth, "The
Art of Computer Programming", volume 3, 6.4); what another slot left behind is found no more, but probed past until
the table is made anew.

Legend: N names, C cells of the table, S slots.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.arrays import IntArray

_EMPTY, _LEFT = -1, -2
_LEAST_CELLS = 128
_FULLEST = 0.6
"""Of all cells so many are in use or left at most; beyond, probing takes many steps."""
_MIX = 0x9E3779B1
NO_GROUP = 0xFFFF
"""Of slots that have no name."""

TagArray = npt.NDArray[np.uint32]


class NameIndex:
    """Finds the slot of a name within a group: names of two groups have nothing to do with one another."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Of each slot; "": it has none."""
        self.group_S = np.zeros(0, np.uint16)
        self._tag_S = np.zeros(0, np.uint32)
        self._slot_C = np.full(_LEAST_CELLS, _EMPTY, np.int32)
        self._used = 0
        """Cells that are not empty."""
        self._held = 0

    def grow(self, slots: int) -> None:
        """Have room for so many slots."""
        more = slots - len(self.group_S)
        self.group_S = np.append(self.group_S, np.full(more, NO_GROUP, np.uint16))
        self._tag_S = np.append(self._tag_S, np.zeros(more, np.uint32))
        self.names += [""] * more

    def find(self, names: Sequence[str], group: int) -> IntArray:
        """Return the slot of each name of a group; -1: it has none."""
        tag_N, found_N = _tags(names, group), np.full(len(names), -1, np.int64)
        cell_N, active = self._cells(tag_N), np.arange(len(names) if self._held else 0)
        while len(active):
            slot = self._slot_C[cell_N[active]]
            alike = np.flatnonzero(
                (slot >= 0) & (self._tag_S[slot] == tag_N[active]) & (self.group_S[slot] == group)
            )
            asked = [names[at] for at in active[alike].tolist()]
            there = [self.names[at] for at in slot[alike].tolist()]
            same = (
                [one == other for one, other in zip(asked, there, strict=True)] if asked != there else slice(None)
            )
            own = alike[same]
            found_N[active[own]] = slot[own]
            goes_on = slot != _EMPTY
            goes_on[own] = False
            active = active[goes_on]
            cell_N[active] = (cell_N[active] + 1) & (len(self._slot_C) - 1)
        return found_N

    def add(self, slots: IntArray, names: Sequence[str], group: int) -> None:
        """Give these slots, which have none, names of a group that no slot has."""
        self.group_S[slots], self._tag_S[slots] = group, _tags(names, group)
        for slot, name in zip(slots.tolist(), names, strict=True):
            self.names[slot] = name
        self._held += len(slots)
        if self._used + len(slots) > _FULLEST * len(self._slot_C):
            self._make_anew()
        else:
            self._put(slots)

    def hide(self, slots: IntArray) -> None:
        """Have the names of these slots, which were added, found no more; the slots still have them."""
        cell, active = self._cells(self._tag_S[slots]), np.arange(len(slots))
        while len(active):
            at = cell[active]
            there = self._slot_C[at] == slots[active]
            self._slot_C[at[there]] = _LEFT
            active = active[~there]
            cell[active] = (cell[active] + 1) & (len(self._slot_C) - 1)
        self.group_S[slots] = NO_GROUP
        self._held -= len(slots)

    def forget(self, slots: IntArray) -> None:
        """Take their names from slots that are found no more."""
        for slot in slots.tolist():
            self.names[slot] = ""

    def of_group(self, group: int) -> IntArray:
        """Return the slots of a group."""
        return np.flatnonzero(self.group_S == group)

    def _cells(self, tag_N: TagArray) -> IntArray:
        return tag_N.astype(np.int64) & (len(self._slot_C) - 1)

    def _make_anew(self) -> None:
        cells = _LEAST_CELLS
        while 1.25 * self._held > _FULLEST * cells:
            cells *= 2
        self._slot_C, self._used = np.full(cells, _EMPTY, np.int32), 0
        self._put(np.flatnonzero(self.group_S != NO_GROUP))

    def _put(self, slots: IntArray) -> None:
        """Put slots into the first cell that is empty for them; of several that want one the last gets it."""
        cell, active = self._cells(self._tag_S[slots]), np.arange(len(slots))
        while len(active):
            at = cell[active]
            free = np.flatnonzero(self._slot_C[at] == _EMPTY)
            self._slot_C[at[free]] = slots[active[free]]
            active = active[self._slot_C[at] != slots[active]]
            cell[active] = (cell[active] + 1) & (len(self._slot_C) - 1)
        self._used += len(slots)


def _tags(names: Sequence[str], group: int) -> TagArray:
    """Return 32 bits for each name, by Python's own hash: it differs from process to process."""
    hash_N = np.fromiter(map(hash, names), np.int64, len(names)).astype(np.uint64)
    return (hash_N ^ np.uint64((group * _MIX) & 0xFFFFFFFF)).astype(np.uint32)
