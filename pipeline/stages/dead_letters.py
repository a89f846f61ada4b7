"""Rejects -> dead letters: the record's bytes untouched, with the error headers of Kafka Connect; and back again.

Our headers are the last ones of a letter, always the same and in the same order, so that a record which came with
such headers of its own (from a dead-letter topic of Connect, say) gets exactly these back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.protocols import Message, RawRecord, TopicPartition
from pipeline.stages.decode import REASONS, Reject

REPLAYS = "offkey.replays"
"""Header of a record that `offkey dead-letters replay` sent back: how often it did. A record that is rejected again
takes it into its next letter, so that a loop can be seen."""

_PREFIX = "__connect.errors."
_NAMES = tuple(
    _PREFIX + name
    for name in ("topic", "partition", "offset", "stage", "exception.class.name", "exception.message")
)
_CLASS_PREFIX = "offkey."
_LONGEST_TEXT = 500


def message(reject: Reject, topic: str) -> Message:
    """Return the rejected record for the dead-letter topic, keeping its own headers in front."""
    place, record, why = reject.partition, reject.record, REASONS[reject.reason]
    errors = (
        place.topic,
        str(place.partition),
        str(record.offset),
        "VALUE_CONVERTER",
        _CLASS_PREFIX + reject.reason,
        (why if reject.text == why else f"{why}: {reject.text}")[:_LONGEST_TEXT],
    )
    headers = [*record.headers, *((name, text.encode()) for name, text in zip(_NAMES, errors, strict=True))]
    origin = f"{place.topic}/{place.partition}@{record.offset}"
    return Message(topic, record.key, record.value, headers, origin)


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
    headers, replays = _own(record.headers[:-count])
    return Letter(place, record, headers, origin, origin_offset, reason.removeprefix(_CLASS_PREFIX), text, replays)


def returned(found: Letter, key: bytes | None, value: bytes | None) -> Message:
    """Return the record that goes back to its topic, with the letter's key and value or repaired ones."""
    headers = [*found.headers, (REPLAYS, str(found.replays + 1).encode())]
    origin = f"{found.place.topic}/{found.place.partition}@{found.record.offset}"
    return Message(found.origin.topic, key, value, headers, origin)


def _own(headers: Sequence[tuple[str, bytes]]) -> tuple[Sequence[tuple[str, bytes]], int]:
    """Split a record's headers into those of its producer and the number of replays, which `returned` put last."""
    if headers and headers[-1][0] == REPLAYS and (headers[-1][1] or b"").isdigit():
        return headers[:-1], int(headers[-1][1])
    return headers, 0
