"""The state of a stream's series <-> the parts of its checkpoints.

A part holds one row for each of its series: what the table knows, the newest rows of its buffer, its tail, its
silence, and in JSON by place the incidents that are open (`incidents`) or may be reopened (`resolved`). `slots`
says whose rows they are, by the slot in the process that wrote them, `named` and `names` which of these slots the
parts before do not name, `dropped` whose series have gone; see `pipeline.changes`. What is known of the partition
beside its series (`rows_seen`, `spans`, `silence.watermark_ms`, `muting`) stands whole in each part that closes.

A whole state in one part, as earlier versions wrote it, has neither `slots` nor `named`: all of its rows are named.

Legend: S slots or rows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.online_tail import OnlineTail
from models.snapshots import Memory, copied, fresh
from pipeline.changes import Changes, Cut
from pipeline.errors import CheckpointError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import TopicPartition
from pipeline.stages.decode import IntArray
from pipeline.stages.incidents import Incidents, OpenIncident
from pipeline.stages.muting import Muting
from pipeline.stages.series import BoolArray, SeriesTable
from pipeline.stages.silence import Silence
from pipeline.stages.windows import Windows

_TAIL, _SILENCE = "tail.", "silence."
_NAME_BYTES = 48
"""Of a series in a part beside its state, with a name of 30."""


@dataclass
class SeriesParts:
    """Cuts the state of a stream's series into parts, and puts it together from them."""

    table: SeriesTable
    windows: Windows
    tail: OnlineTail
    silence: Silence
    incidents: Incidents
    muting: Muting
    begin: Callable[[], None]
    """Has what is beside the table begin with the series that were added to it."""
    empty: Callable[[IntArray], None]
    """Has it forget the series of slots that lost theirs."""

    def __post_init__(self) -> None:
        self.changes = Changes()
        self._bytes_each = 0
        """Bytes of a series in a part; 0: not measured yet."""

    def begin_chain(self, partition: TopicPartition) -> None:
        """Have the parts that are cut from now on hold every series of a partition."""
        self.changes.begin_chain(partition, self.table.are_held(partition))

    def cut(self, partition: TopicPartition, memory: PartMemory, most_bytes: int) -> Cut:
        """Fill a part with the series that have changed since the parts before, or with as many as fit in."""
        own_S = self.table.are_held(partition)
        each_bytes = self._measure(own_S)
        cut = self.changes.take(partition, own_S, max(most_bytes // each_bytes, 1))
        memory.begin(each_bytes * len(cut.slots), most_bytes)
        self._rows(cut.slots, memory.array)
        for name, slots in (("slots", cut.slots), ("named", cut.named), ("dropped", cut.dropped)):
            memory.put(name, slots)
        memory.put("names", self._names(cut.named))
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
            self.table.restore(slots, arrays)
            self.windows.restore(slots, arrays)
            self.tail.scatter(slots, _beginning(_TAIL, arrays))
            self.silence.restore_rows(slots, _beginning(_SILENCE, arrays))
            self.incidents.forget(slots)
            self.incidents.restore(_incidents(arrays, "incidents", slots), _incidents(arrays, "resolved", slots))
            last = {**arrays}
        if not last:
            return
        self.table.restore_bounds(partition, last)
        self.silence.restore(partition, _beginning(_SILENCE, last))
        if "muting" in last:
            self.muting.restore(partition, last["muting"].tobytes())

    def _measure(self, own_S: BoolArray) -> int:
        """Return about how many bytes a series takes of a part."""
        if not self._bytes_each and own_S.any():
            one = np.array([own_S.argmax()])
            self._bytes_each = sum(array.nbytes for array in self._rows(one).values()) + _NAME_BYTES
        return self._bytes_each or _NAME_BYTES

    def _rows(self, slots: IntArray, memory: Memory = fresh) -> Arrays:
        """Return the state of these series, one row each but for what few of them have."""
        arrays: Arrays = self.table.snapshot(slots, memory)
        arrays |= _prefixed(_TAIL, self.tail.gather, slots, memory)
        arrays |= _prefixed(_SILENCE, self.silence.snapshot_rows, slots, memory)
        arrays |= self.windows.snapshot(slots, memory)
        opened = self.incidents.open_among(slots)
        recent = self.incidents.recent_among(slots, self.table.columns["count"])
        for name, found in (("incidents", opened), ("resolved", recent)):
            places = enumerate(slots.tolist() if found else ())
            by_place = {place: found[slot] for place, slot in places if slot in found}
            arrays[name] = copied(name, _json(by_place), memory)
        return arrays

    def _names(self, slots: IntArray) -> npt.NDArray[np.uint8]:
        return _json(list(map(self.table.names.__getitem__, slots.tolist())))

    def _of_partition(self, partition: TopicPartition) -> Arrays:
        """Return what is known of a partition beside its series."""
        arrays: Arrays = self.table.snapshot_bounds(partition)
        arrays |= {_SILENCE + name: array for name, array in self.silence.snapshot(partition).items()}
        return {**arrays, "muting": np.frombuffer(self.muting.snapshot(partition), np.uint8)}

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
        slots = slot_of[rows]
        if (slots < 0).any():
            raise CheckpointError(f"{int((slots < 0).sum())} of its series have no name in the parts before it")
        return slot_of, slots

    def _release(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget some series."""
        if len(slots):
            self.changes.release(partition, slots)
            self.table.release(partition, slots)
            self.silence.forget(slots)
            self.empty(slots)


def _json(value: object) -> npt.NDArray[np.uint8]:
    return np.frombuffer(msgspec.json.encode(value), np.uint8)


def _prefixed(prefix: str, rows: Callable[[IntArray, Memory], Arrays], slots: IntArray, memory: Memory) -> Arrays:
    """Return rows under names with a prefix."""
    found = rows(slots, lambda name, shape, dtype: memory(prefix + name, shape, dtype))
    return {prefix + name: array for name, array in found.items()}


def _beginning(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _incidents(arrays: Mapping[str, npt.NDArray[Any]], name: str, slots: IntArray) -> dict[int, OpenIncident]:
    """Return the incidents of a part by slot; the first checkpoints hold no resolved incidents."""
    if name not in arrays:
        return {}
    kept = msgspec.json.decode(arrays[name].tobytes(), type=dict[int, OpenIncident])
    return {int(slots[place]): incident for place, incident in kept.items()}
