"""The state of a stream's series <-> the parts of its checkpoints.

A part holds one row for each of its series: what the table knows, the newest rows of its buffer, its tail, its
silence, and in JSON by place the incidents that are open (`incidents`) or may be reopened (`resolved`). `slots`
says whose rows they are, by the slot in the process that wrote them, `named` and `names` which of these slots the
parts before do not name, `dropped` whose series have gone; see `pipeline.changes`. What is known of the partition
beside its series (`rows_seen`, `spans`, `silence.watermark_ms`, `muting`, and `feedback` where it has excused a
point) stands whole in each part that closes.

Of a series that the parts before hold, what is new stands under names with `added.` before them: whose it is
(`slots`), how many points it had (`points`), what these have put behind its buffer, and all that may have moved
with them. Of a tail that is the block under way; `added.learned` tells the places of those whose block has ended,
and `added.learned.tail.` what they are.

A whole state in one part, as earlier versions wrote it, has neither `slots` nor `named`: all of its rows are named.
The third format's parts add nothing.

Legend: S slots or rows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, IntArray
from models.online_tail import OnlineTail
from models.snapshots import Memory, copied, fresh
from pipeline.changes import Changes, Cut, Room
from pipeline.errors import CheckpointError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import TopicPartition
from pipeline.stages.feedback import FeedbackEffect
from pipeline.stages.incidents import Incidents, OpenIncident
from pipeline.stages.muting import Muting
from pipeline.stages.series import SeriesTable
from pipeline.stages.silence import Silence
from pipeline.stages.windows import Windows

_TAIL, _SILENCE, _ADDED, _LEARNED = "tail.", "silence.", "added.", "learned."
_NAME_BYTES = 48
"""Of a series in a part beside its state, with a name of 30."""
_LIGHTER = 3
"""So many series whose state is added to are gathered in the time of one whole: they are a tenth of its bytes, but
it takes as many looks to find them."""


@dataclass
class SeriesParts:
    """Cuts the state of a stream's series into parts, and puts it together from them."""

    table: SeriesTable
    windows: Windows
    tail: OnlineTail
    silence: Silence
    incidents: Incidents
    muting: Muting
    feedback: FeedbackEffect
    begin: Callable[[], None]
    """Has what is beside the table begin with the series that were added to it."""
    empty: Callable[[IntArray], None]
    """Has it forget the series of slots that lost theirs."""

    def __post_init__(self) -> None:
        self.changes = Changes(self.windows.depth // 2)
        self._bytes_each: tuple[int, int] | None = None
        """Bytes of a series in a part, whole and added to; None: not measured yet."""

    def begin_chain(self, partition: TopicPartition) -> None:
        """Have the parts that are cut from now on hold every series of a partition."""
        self.changes.begin_chain(partition, self.table.are_held(partition))

    def cut(self, partition: TopicPartition, memory: PartMemory, most_bytes: int) -> Cut:
        """Fill a part with the series that have changed since the parts before, or with as many as fit in."""
        own_S = self.table.are_held(partition)
        whole_bytes, added_bytes = self._measure(own_S)
        room = Room(most_bytes, whole_bytes, max(added_bytes, whole_bytes // _LIGHTER))
        cut = self.changes.take(partition, own_S, room)
        memory.begin(whole_bytes * len(cut.slots) + added_bytes * len(cut.added), most_bytes)
        self._rows(cut.slots, memory.array)
        for name, slots in (("slots", cut.slots), ("named", cut.named), ("dropped", cut.dropped)):
            memory.put(name, slots)
        memory.put("names", self._names(cut.named))
        if len(cut.added):
            self._added(cut.added, cut.rows.astype(np.int64), _under(_ADDED, memory.array))
        for name, array in self._of_partition(partition).items() if cut.closes else ():
            memory.put(name, array)
        return cut

    def note_gone(self, slots: IntArray) -> None:
        """Have the next parts say that the series of these slots have gone."""
        partitions = [self.table.partitions[slot] for slot in slots.tolist()]
        for partition in set(partitions):
            own = np.array([place == partition for place in partitions], np.bool_)
            self.changes.release(partition, slots[own])

    def uncut(self, partition: TopicPartition, cut: Cut) -> None:
        """Have the next parts hold again what a part held that was not written."""
        self.changes.put_back(partition, self.table.are_held(partition), cut)

    def snapshot(self, partition: TopicPartition) -> Arrays:
        """Return all of a partition's state as one part, in the order of names: equal states have equal arrays."""
        names = self.table.names
        slots = np.array(sorted(self.table.held(partition).tolist(), key=names.__getitem__), np.int64)
        return {**self._rows(slots), "names": self._names(slots), **self._of_partition(partition)}

    def restore(self, partition: TopicPartition, parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Put the state of a partition that has none together from its parts, the later ones over the earlier ones.

        Raises:
            CheckpointError: reading the parts does, or one of them lacks what it rests on.
        """
        slot_of, last = np.zeros(0, np.int64), Arrays()
        """By the slot that a series had where the parts were cut; -1: none."""
        for arrays in parts:
            slot_of, slots = self._find_slots(partition, arrays, slot_of)
            self._restore_rows(slots, arrays)
            if added := _beginning(_ADDED, arrays):
                self._restore_added(_known_slots(slot_of, added["slots"]), added)
            last = {**arrays}
        if not last:
            return
        self.windows.settle(self.table.held(partition), last["rows"].shape[1])
        self.table.restore_bounds(partition, last)
        self.silence.restore(partition, _beginning(_SILENCE, last))
        if "muting" in last:
            self.muting.restore(partition, last["muting"].tobytes())
        if "feedback" in last:
            self.feedback.restore(partition, last["feedback"].tobytes())

    def _measure(self, own_S: BoolArray) -> tuple[int, int]:
        """Return about how many bytes a series takes of a part, whole and added to."""
        if self._bytes_each is None and own_S.any():
            one = np.array([own_S.argmax()])
            whole, added = (
                sum(array.nbytes for array in arrays.values())
                for arrays in (self._rows(one), self._added(one, np.ones(1, np.int64)))
            )
            self._bytes_each = whole + _NAME_BYTES, added
        return self._bytes_each or (_NAME_BYTES, _NAME_BYTES)

    def _rows(self, slots: IntArray, memory: Memory = fresh) -> Arrays:
        """Return the state of these series, one row each but for what few of them have."""
        arrays: Arrays = self.table.snapshot(slots, memory)
        arrays |= _prefixed(_TAIL, self.tail.gather(slots, _under(_TAIL, memory)))
        arrays |= _prefixed(_SILENCE, self.silence.snapshot_rows(slots, _under(_SILENCE, memory)))
        arrays |= self.windows.snapshot(slots, memory)
        return arrays | self._incidents(slots, memory)

    def _added(self, slots: IntArray, points_S: IntArray, memory: Memory = fresh) -> Arrays:
        """Return what so many last points of these series have changed, but for the names of the arrays."""
        arrays: Arrays = {"slots": copied("slots", slots.astype(np.uint32), memory)}
        arrays["points"] = copied("points", points_S.astype(np.uint8), memory)
        arrays |= self.table.snapshot_moved(slots, memory)
        arrays |= _prefixed(_TAIL, self.tail.gather_sums(slots, _under(_TAIL, memory)))
        learned = np.flatnonzero(self.tail.have_learned(slots, points_S))
        arrays["learned"] = copied("learned", learned.astype(np.uint32), memory)
        prefix = _LEARNED + _TAIL
        arrays |= _prefixed(prefix, self.tail.gather(slots[learned], _under(prefix, memory)))
        arrays |= _prefixed(_SILENCE, self.silence.snapshot_rows(slots, _under(_SILENCE, memory)))
        arrays |= self.windows.snapshot_added(slots, points_S, memory)
        return arrays | self._incidents(slots, memory)

    def _incidents(self, slots: IntArray, memory: Memory) -> Arrays:
        """Return the incidents of these series, by place."""
        arrays: Arrays = {}
        opened = self.incidents.open_among(slots)
        recent = self.incidents.recent_among(slots, self.table.columns["count"])
        for name, found in (("incidents", opened), ("resolved", recent)):
            places = enumerate(slots.tolist() if found else ())
            by_place = {place: found[slot] for place, slot in places if slot in found}
            arrays[name] = copied(name, _json(by_place), memory)
        return arrays

    def _restore_rows(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.table.restore(slots, arrays)
        self.windows.restore(slots, arrays)
        self.tail.scatter(slots, _beginning(_TAIL, arrays))
        self.silence.restore_rows(slots, _beginning(_SILENCE, arrays))
        self._restore_incidents(slots, arrays)

    def _restore_added(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        points_S = arrays["points"].astype(np.int64)
        self.table.restore_moved(slots, points_S, arrays)
        self.windows.restore_added(slots, points_S, arrays)
        self.tail.scatter(slots[arrays["learned"]], _beginning(_LEARNED + _TAIL, arrays))
        self.tail.scatter_sums(slots, _beginning(_TAIL, arrays))
        self.silence.restore_rows(slots, _beginning(_SILENCE, arrays))
        self._restore_incidents(slots, arrays)

    def _restore_incidents(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.incidents.forget(slots)
        self.incidents.restore(_incidents(arrays, "incidents", slots), _incidents(arrays, "resolved", slots))

    def _names(self, slots: IntArray) -> npt.NDArray[np.uint8]:
        return _json(list(map(self.table.names.__getitem__, slots.tolist())))

    def _of_partition(self, partition: TopicPartition) -> Arrays:
        """Return what is known of a partition beside its series."""
        arrays: Arrays = self.table.snapshot_bounds(partition)
        arrays |= {_SILENCE + name: array for name, array in self.silence.snapshot(partition).items()}
        arrays["muting"] = np.frombuffer(self.muting.snapshot(partition), np.uint8)
        if kept := self.feedback.snapshot(partition):
            arrays["feedback"] = np.frombuffer(kept, np.uint8)
        return arrays

    def _find_slots(
        self, partition: TopicPartition, arrays: Mapping[str, npt.NDArray[Any]], slot_of: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Give the series of a part their slots here.

        Returns (slots by the slots of whoever cut the parts, slots of the part's rows).
        """
        names = msgspec.json.decode(arrays["names"].tobytes(), type=list[str])
        rows = arrays.get("slots", np.arange(len(names)))
        named, dropped = arrays.get("named", rows), arrays.get("dropped", rows[:0])
        most = 1 + max(int(each.max(initial=-1)) for each in (rows, named, dropped))
        slot_of = np.append(slot_of, np.full(max(most - len(slot_of), 0), -1))
        gone = slot_of[np.union1d(dropped, named)]
        self._release(partition, gone[gone >= 0])
        slot_of[dropped] = -1
        slot_of[named] = self.table.add_all(partition, names)
        self.begin()
        return slot_of, _known_slots(slot_of, rows)

    def _release(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget some series."""
        if len(slots):
            self.changes.release(partition, slots)
            self.table.release(partition, slots)
            self.silence.forget(slots)
            self.empty(slots)


def _json(value: object) -> npt.NDArray[np.uint8]:
    return np.frombuffer(msgspec.json.encode(value), np.uint8)


def _under(prefix: str, memory: Memory) -> Memory:
    """Return memory for arrays whose names get a prefix."""
    return lambda name, shape, dtype: memory(prefix + name, shape, dtype)


def _prefixed(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _beginning(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _known_slots(slot_of: IntArray, slots: npt.NDArray[Any]) -> IntArray:
    """Return the slots here of series by those where the parts were cut."""
    found: IntArray = np.append(slot_of, -1)[np.minimum(slots, len(slot_of))]
    if (found < 0).any():
        raise CheckpointError(f"{int((found < 0).sum())} of its series have no name in the parts before it")
    return found


def _incidents(arrays: Mapping[str, npt.NDArray[Any]], name: str, slots: IntArray) -> dict[int, OpenIncident]:
    """Return the incidents of a part by slot; the first checkpoints hold no resolved incidents."""
    if name not in arrays:
        return {}
    kept = msgspec.json.decode(arrays[name].tobytes(), type=dict[int, OpenIncident])
    return {int(slots[place]): incident for place, incident in kept.items()}
