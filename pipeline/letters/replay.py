"""Letters that wait -> records on the topics they came from, each once.

**Once.** Records and the marks of their letters (see `tally`) go out in one Kafka transaction: readers of
committed records, which workers are, see both or neither. A replay of a topic begins by taking over the name of the
one before it: the broker then settles what that one left open, and shuts it out, before the marks are read. So a
replay may be killed anywhere, hang for an hour or run twice at a time, and a letter is sent back once. Committed
offsets of a group would say less: they are one number for each partition, and letters that a filter leaves out lie
between those sent. Marks in storage would be no part of the transaction: a crash between the two would send twice,
or never.

This is as good as the broker's transactions: the embedded one shows the records of an aborted one to all.

**What is sent**: key, value and headers of the record, without the error headers, and with one more that counts
its replays; to the partition it came from, or where its key leads if the topic has fewer now. Its Kafka timestamp
is the time of sending; only where a stream has no `time` field, and so takes the Kafka timestamp for it, that of
the letter, which is when the record was rejected.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ConfigError, DeliveryError, TransientError
from pipeline.letters.lines import Repair, place_of, sha256_of
from pipeline.letters.tally import Kind, Tally, marks, tally, waiting
from pipeline.protocols import Delivery, Log, Message
from pipeline.stages.dead_letters import Letter, returned

_MOST_BYTES = 8 * 1024 * 1024

Repairs = Mapping[tuple[int, int], Repair]
"""By partition and offset of the letter."""


@dataclass(frozen=True)
class Plan:
    """Which letters go back."""

    counted: Tally
    kinds: Collection[Kind]
    repairs: Repairs | None
    """Where there are any, only these letters go."""
    numbers: Mapping[int, int]
    """Letters to send, by the code of their kind; kinds without any are not in it."""
    replayed_already: int = 0
    """Of the letters with repairs."""

    def letters(self, log: Log) -> Iterator[Letter]:
        """Read the letters to send."""
        chosen = [kind for kind in self.kinds if kind.code in self.numbers]
        left = sum(self.numbers.values())
        for letter in waiting(log, self.counted, chosen):
            if self.repairs is None or (letter.place.partition, letter.record.offset) in self.repairs:
                yield letter
                left -= 1
                if not left:
                    return


@dataclass
class Sent:
    """What a replay has done."""

    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records by topic and reason."""
    moved: int = 0
    """Records that went to another partition, since their own is gone."""


def plan(
    log: Log,
    wanted: Callable[[Kind], bool],
    told: Callable[[int], None],
    repairs: Repairs | None = None,
    edited: Path | None = None,
) -> Plan:
    """Count the letters, and say which of them go back.

    Args:
        wanted: whether letters of a kind do.
        told: as `tally` tells it.
        repairs: lines of the file `edited`, if only its letters go.

    Raises:
        ConfigError: a repair matches no letter that is wanted; one line for each.
    """
    found: dict[tuple[int, int], str] = {}

    def look(letter: Letter) -> None:
        place = (letter.place.partition, letter.record.offset)
        if repairs is not None and place in repairs:
            found[place] = (
                "" if sha256_of(letter) == repairs[place].sha256 else f"{place_of(letter)} has other bytes"
            )

    counted = tally(log, told, look)
    kinds = [kind for kind in counted.kinds.values() if wanted(kind)]
    if repairs is None:
        return Plan(counted, kinds, None, {kind.code: kind.waiting for kind in kinds if kind.waiting})
    codes, numbers, replayed, mistakes = {kind.code for kind in kinds}, Counter[int](), 0, []
    for place, repair in repairs.items():
        kind = counted.kind_of(*place)
        if kind is None:
            wrong = f"partition {place[0]} has no letter of offkey at {place[1]}; list the letters again"
        elif counted.is_repeat(*place):
            wrong = "another letter tells of the same record, and stands for both; list the letters again"
        elif found[place]:
            wrong = f"{found[place]} than those that were listed; list the letters again"
        elif kind.code not in codes:
            wrong = f"the letter is one of {kind.topic}, {kind.reason}, which is not asked for; take out the line"
        else:
            if counted.is_replayed(*place):
                replayed += 1
            else:
                numbers[kind.code] += 1
            continue
        mistakes.append(f"{edited}:{repair.line}: {wrong}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Plan(counted, kinds, repairs, numbers, replayed)


def replay(
    log: Log,
    delivery: Delivery,
    planned: Plan,
    topic: str,
    partitions: Mapping[str, int],
    timed_by_kafka: Collection[str],
    told: Callable[[int], None],
    timeout_s: float,
    most_letters: int = 500,
) -> Sent:
    """Send the planned letters back.

    Args:
        delivery: exactly once, and settled before the letters were counted; only to be closed after an error.
        topic: of the dead letters.
        partitions: how many each topic has that records go back to.
        timed_by_kafka: those of them whose records' event time is the Kafka timestamp.
        told: is told how many letters have been sent, a transaction at a time.
        timeout_s: for the broker to confirm a transaction.
        most_letters: of a transaction; it ends earlier at 8 MB.

    Raises:
        DeliveryError: the broker did not confirm, or another replay has begun; one that is started again sends
            what is left.
        RecordError: the broker refuses a record for its size.
        ConfigError: a topic is not there, or there is no right to write to it.
    """
    sent = Sent()
    for letters in _transactions(planned.letters(log), most_letters):
        records = [_record(letter, planned.repairs, partitions, timed_by_kafka) for letter in letters]
        try:
            for message in (*records, *marks(topic, letters)):
                delivery.send(message)
            delivery.finish({}, timeout_s)
        except TransientError as error:
            raise DeliveryError(f"{error}; start the replay again for what is left") from error
        sent.by_kind.update((letter.origin.topic, letter.reason) for letter in letters)
        sent.moved += sum(record.partition is None for record in records)
        told(len(letters))
    return sent


def _transactions(letters: Iterable[Letter], most_letters: int) -> Iterator[list[Letter]]:
    batch: list[Letter] = []
    size = 0
    for letter in letters:
        batch.append(letter)
        size += len(letter.record.key or b"") + len(letter.record.value or b"")
        if len(batch) >= most_letters or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _record(
    letter: Letter, repairs: Repairs | None, partitions: Mapping[str, int], timed_by_kafka: Collection[str]
) -> Message:
    key, value = letter.record.key, letter.record.value
    if repairs is not None:
        key, value = repairs[letter.place.partition, letter.record.offset].apply(letter)
    place, time_ms = letter.origin, letter.record.timestamp
    return replace(
        returned(letter, key, value),
        partition=place.partition if place.partition < partitions[place.topic] else None,
        timestamp_ms=time_ms if place.topic in timed_by_kafka and time_ms >= 0 else None,
    )
