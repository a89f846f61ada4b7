"""Rejects -> dead letters: the record's bytes untouched, with the error headers of Kafka Connect; and back again.

Of a record of many rows of which some were scored, a dead letter carries one row as a record of its own, and the
header `__connect.errors.row`, before the others, with its number in the record, from 0. An alert that a receiver
was not told of has the header `offkey.receiver` there.

Our headers are the last ones of a letter, always the same and in the same order, so that a record which came with
such headers of its own (from a dead-letter topic of Connect, say) gets exactly these back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.protocols import Message, RawRecord, TopicPartition
from pipeline.stages.decode import REASONS, Reject

REPLAYS = "offkey.replays"
"""Header of a record that `offkey dead-letters replay` sent back: how often it did. A record that is rejected again
takes it into its next letter, so that a loop can be seen."""

RECEIVER = "offkey.receiver"
"""Header of an alert that a receiver was not told of: the receiver's name."""
UndeliveredReason = Literal["refused", "given_up", "unreadable"]
UNDELIVERED: dict[UndeliveredReason, str] = {
    "refused": "the receiver refuses the alert for good",
    "given_up": "the receiver did not take the alert for longer than its `retry_for`",
    "unreadable": "the record is no alert that this version of offkey knows",
}
"""Why an alert goes to the dead-letter topic."""

_PREFIX = "__connect.errors."
_NAMES = tuple(
    _PREFIX + name
    for name in ("topic", "partition", "offset", "stage", "exception.class.name", "exception.message")
)
_ROW = _PREFIX + "row"
_CLASS_PREFIX = "offkey."
_LONGEST_TEXT = 500


def message(reject: Reject, topic: str) -> Message:
    """Return the rejected record or row for the dead-letter topic, keeping its record's headers in front."""
    why = REASONS[reject.reason]
    row = [] if reject.inner is None else [(_ROW, str(reject.inner).encode())]
    text = why if reject.text == why else f"{why}: {reject.text}"
    headers = [*row, *_ours(reject.partition, reject.record, "VALUE_CONVERTER", reject.reason, text)]
    return _letter(reject.partition, reject.record, reject.value, headers, topic)


def undelivered(
    place: TopicPartition, record: RawRecord, receiver: str, reason: UndeliveredReason, text: str, topic: str
) -> Message:
    """Return an alert that a receiver was not told of, with the receiver's name in a further header."""
    told = f"{UNDELIVERED[reason]}: {text}" if text else UNDELIVERED[reason]
    headers = [(RECEIVER, receiver.encode()), *_ours(place, record, "TASK_PUT", reason, told)]
    return _letter(place, record, record.value, headers, topic)


def _ours(
    place: TopicPartition, record: RawRecord, stage: str, reason: str, text: str
) -> Iterator[tuple[str, bytes]]:
    where = place.topic, str(place.partition), str(record.offset)
    errors = *where, stage, _CLASS_PREFIX + reason, text[:_LONGEST_TEXT]
    yield from ((name, text.encode()) for name, text in zip(_NAMES, errors, strict=True))


def _letter(
    place: TopicPartition, record: RawRecord, value: bytes | None, headers: Sequence[tuple[str, bytes]], topic: str
) -> Message:
    origin = f"{place}@{record.offset}"
    return Message(topic, record.key, value, [*record.headers, *headers], origin)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter of ours, as `message` made it."""

    place: TopicPartition
    """Where it lies in the dead-letter topic, at the offset of `record`."""
    record: RawRecord
    headers: Sequence[tuple[str, bytes]]
    """The rejected record's own."""
    origin: TopicPartition
    """Where the rejected record was read."""
    origin_offset: int
    row: int | None
    """Which row of that record it holds, from 0; None: the whole record."""
    reason: str
    text: str
    replays: int
    """How often the record was sent back before this letter."""


def letter(place: TopicPartition, record: RawRecord) -> Letter | None:
    """Read a record of the dead-letter topic; None: it is no letter of ours."""
    count = len(_NAMES)
    if tuple(name for name, _ in record.headers[-count:]) != _NAMES:
        return None
    try:
        topic, partition, offset, _, reason, text = (value.decode() for _, value in record.headers[-count:])
        origin, origin_offset = TopicPartition(topic, int(partition)), int(offset)
    except (AttributeError, ValueError):
        # Other programs may write these headers too: without a value, not UTF-8, not a number.
        return None
    if not reason.startswith(_CLASS_PREFIX) or origin.partition < 0 or origin_offset < 0:
        return None
    headers, row = _last_number(record.headers[:-count], _ROW)
    headers, replays = _last_number(headers, REPLAYS)
    return Letter(
        *(place, record, headers, origin, origin_offset, row),
        *(reason.removeprefix(_CLASS_PREFIX), text, replays or 0),
    )


def returned(found: Letter, key: bytes | None, value: bytes | None) -> Message:
    """Return the record that goes back to its topic, with the letter's key and value or repaired ones."""
    headers = [*found.headers, (REPLAYS, str(found.replays + 1).encode())]
    origin = f"{found.place}@{found.record.offset}"
    return Message(found.origin.topic, key, value, headers, origin)


def _last_number(headers: Sequence[tuple[str, bytes]], name: str) -> tuple[Sequence[tuple[str, bytes]], int | None]:
    """Return the headers without the last one, and its number, where it is of this name and holds one."""
    if headers and headers[-1][0] == name and (headers[-1][1] or b"").isdigit():
        return headers[:-1], int(headers[-1][1])
    return headers, None
