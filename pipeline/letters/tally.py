"""The dead-letter topic -> how many letters of which kind it holds, and which of them wait for their replay.

What was sent back is told by *marks*: records of the dead-letter topic itself, each in the partition of the
letters that it names by offset. A mark lies behind its letters, so retention takes it no earlier than them, and a
topic made anew has neither. Records with other headers are foreign: counted, and left alone.

A worker that delivers at least once may write the letter of a record again after a fault. Letters with the same
topic, partition, offset, replays, key and value are *repeats* of one, which is sent back once for all of them. They
are told by a hash of 64 bits: of a million letters, two others are taken for repeats once in 40 million times.

Memory: twelve bytes an offset, in blocks, and thirty more while repeats are told, whatever the letters hold: 42 MB
for a million of them.
"""

import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import RecordError
from pipeline.protocols import Log, Message, PartitionRecords, RawRecord, TopicPartition
from pipeline.stages.dead_letters import Letter, letter

MARK = ("offkey.dead-letters", b"replayed")
"""The one header of a mark; its value is JSON: `{"version": 1, "offsets": [[first, last], ...]}`."""

_VERSION = 1
_BLOCK = 1 << 14
# A letter's code is the number of its kind, with these beside it.
_REPLAYED = 1 << 31
_REPEAT = 1 << 30
_AGAIN = 1 << 29
_KIND = _AGAIN - 1


@dataclass
class Kind:
    """The letters of one topic and reason."""

    topic: str
    """Where they came from."""
    reason: str
    code: int
    """Number of this kind, from 1 on."""
    letters: int = 0
    """Without repeats."""
    replayed: int = 0
    again: int = 0
    """Letters of records that had been sent back before, and were rejected once more."""
    most_replays: int = 0
    first_ms: int = 0
    last_ms: int = 0
    """Kafka timestamps of the earliest and the latest letter."""

    @property
    def waiting(self) -> int:
        return self.letters - self.replayed


@dataclass
class Tally:
    """What a topic's records come to; `take` them all, each partition in offset order, then `fold_repeats`."""

    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)
    foreign: int = 0
    repeats: int = 0

    def __post_init__(self) -> None:
        self._order: list[Kind] = []
        self._blocks: dict[tuple[int, int], array[int]] = {}
        self._hashes: dict[tuple[int, int], array[int]] = {}

    def take(self, arrived: PartitionRecords) -> Iterator[Letter]:
        """Count consecutive records of a partition, and yield the letters among them.

        Raises:
            RecordError: a mark is of a later format.
        """
        for record in arrived.records:
            found = letter(arrived.partition, record)
            if found is not None:
                self._count(found)
                yield found
            elif tuple(record.headers) == (MARK,):
                for first, last in _marked(arrived.partition, record):
                    self._mark(arrived.partition.partition, first, last)
            else:
                self.foreign += 1

    def fold_repeats(self) -> None:
        """Let one letter stand for all that tell of the same record: one that is replayed, if there is any."""
        places = sorted(self._blocks)
        if not places:
            return
        hash_N = np.concatenate([np.frombuffer(self._hashes[place], np.uint64) for place in places])
        code_N = np.concatenate([np.frombuffer(self._blocks[place], np.uint32) for place in places])
        order_N = np.lexsort((code_N & _REPLAYED == 0, hash_N))
        hash_N = hash_N[order_N]
        repeat_N = order_N[1:][(hash_N[1:] == hash_N[:-1]) & (hash_N[1:] != 0)]
        for index in repeat_N.tolist():
            block, at = divmod(index, _BLOCK)
            code = self._blocks[places[block]][at]
            kind = self._order[(code & _KIND) - 1]
            kind.letters -= 1
            kind.replayed -= bool(code & _REPLAYED)
            kind.again -= bool(code & _AGAIN)
            self._blocks[places[block]][at] = code | _REPEAT
        self.repeats += len(repeat_N)

    def kind_of(self, partition: int, offset: int) -> Kind | None:
        """Return the kind of the letter at a place of the topic, or None where none was taken."""
        code = self._code(partition, offset) & _KIND
        return self._order[code - 1] if code else None

    def is_replayed(self, partition: int, offset: int) -> bool:
        return bool(self._code(partition, offset) & _REPLAYED)

    def is_repeat(self, partition: int, offset: int) -> bool:
        return bool(self._code(partition, offset) & _REPEAT)

    def _count(self, found: Letter) -> None:
        key, time_ms = (found.origin.topic, found.reason), found.record.timestamp
        kind = self.kinds.get(key)
        if kind is None:
            # Codes begin at 1: 0 is no letter.
            kind = Kind(*key, len(self.kinds) + 1, first_ms=time_ms, last_ms=time_ms)
            self.kinds[key] = kind
            self._order.append(kind)
        kind.letters += 1
        kind.again += found.replays > 0
        kind.most_replays = max(kind.most_replays, found.replays)
        kind.first_ms, kind.last_ms = min(kind.first_ms, time_ms), max(kind.last_ms, time_ms)
        block, index = divmod(found.record.offset, _BLOCK)
        at = (found.place.partition, block)
        if at not in self._blocks:
            self._blocks[at] = array("I", [0]) * _BLOCK
            self._hashes[at] = array("Q", [0]) * _BLOCK
        self._blocks[at][index] = kind.code | (_AGAIN if found.replays else 0)
        record = (found.origin, found.origin_offset, found.row, found.replays, found.record.key, found.record.value)
        self._hashes[at][index] = hash(record) % (1 << 64) or 1

    def _mark(self, partition: int, first: int, last: int) -> None:
        for offset in range(first, last + 1):
            code = self._code(partition, offset)
            # No letter any more: retention has taken it, and not its mark.
            if code and not code & _REPLAYED:
                self._order[(code & _KIND) - 1].replayed += 1
                self._blocks[partition, offset // _BLOCK][offset % _BLOCK] = code | _REPLAYED

    def _code(self, partition: int, offset: int) -> int:
        block = self._blocks.get((partition, offset // _BLOCK))
        return block[offset % _BLOCK] if block else 0


def tally(log: Log, told: Callable[[int], None], each: Callable[[Letter], None] | None = None) -> Tally:
    """Count all records of a dead-letter topic.

    Args:
        told: is told how many records have been read, a portion at a time.
        each: is shown every letter.
    """
    counted = Tally()
    for arrived in log.read():
        for found in counted.take(arrived):
            if each is not None:
                each(found)
        told(len(arrived.records))
    counted.fold_repeats()
    return counted


def waiting(log: Log, counted: Tally, kinds: Collection[Kind]) -> Iterator[Letter]:
    """Read the letters of some kinds that wait for their replay, in the order of the topic's partitions.

    Letters that have come since they were counted are left for another time, so this has an end also beside a
    worker that rejects again what comes back.
    """
    chosen = {kind.code for kind in kinds}
    left = sum(kind.waiting for kind in kinds)
    if not left:
        return
    for arrived in log.read():
        number = arrived.partition.partition
        for record in arrived.records:
            kind = counted.kind_of(number, record.offset)
            if kind is None or kind.code not in chosen:
                continue
            if counted.is_replayed(number, record.offset) or counted.is_repeat(number, record.offset):
                continue
            found = letter(arrived.partition, record)
            assert found is not None, "what was a letter when it was counted is one still"
            yield found
            left -= 1
            if not left:
                return


def examples_of(log: Log, counted: Tally, kinds: Collection[Kind], most: int) -> Iterator[Letter]:
    """Read the first letters of each kind that wait, so many at most; reads no further than it must."""
    left = {kind.code: min(kind.waiting, most) for kind in kinds if min(kind.waiting, most)}
    for found in waiting(log, counted, [kind for kind in kinds if kind.code in left]) if left else ():
        code = counted.kinds[found.origin.topic, found.reason].code
        if left.get(code):
            yield found
            left[code] -= 1
            if not any(left.values()):
                return


def marks(topic: str, letters: Iterable[Letter]) -> list[Message]:
    """Return the marks of letters that are sent back: one for each partition, in it."""
    offsets: dict[int, list[int]] = {}
    for each in letters:
        offsets.setdefault(each.place.partition, []).append(each.record.offset)
    return [
        Message(topic, None, _value(own), [MARK], f"{topic}/{partition}", partition)
        for partition, own in sorted(offsets.items())
    ]


def _value(offsets: Iterable[int]) -> bytes:
    ranges: list[list[int]] = []
    for offset in sorted(offsets):
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return json.dumps({"version": _VERSION, "offsets": ranges}).encode()


def _marked(place: TopicPartition, record: RawRecord) -> list[tuple[int, int]]:
    try:
        content = json.loads(record.value or b"")
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']} is not {_VERSION}")
        # A mark lies behind its letters: a longer range would be no mark of ours, and take long.
        return [(int(first), min(int(last), record.offset)) for first, last in content["offsets"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{place}@{record.offset}: no mark of replayed letters that this version reads "
            f"({error!r}); take the version of offkey that wrote it"
        ) from error
