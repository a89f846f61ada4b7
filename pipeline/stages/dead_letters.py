"""Rejects -> dead letters: the record's bytes untouched, with the error headers of Kafka Connect.

Of a record of many rows of which some were scored, a dead letter carries one row as a record of its own, and the
header `__connect.errors.row` with its number in the record, from 0.
"""

from pipeline.protocols import Message
from pipeline.stages.decode import REASONS, Reject

_PREFIX = "__connect.errors."
_LONGEST_TEXT = 500


def message(reject: Reject, topic: str) -> Message:
    """Return the rejected record or row for the dead-letter topic, keeping its record's headers in front."""
    place, record = reject.partition, reject.record
    errors = {
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(record.offset),
        "stage": "VALUE_CONVERTER",
        "exception.class.name": f"offkey.{reject.reason}",
        "exception.message": f"{REASONS[reject.reason]}: {reject.text}"[:_LONGEST_TEXT],
    }
    if reject.inner is not None:
        errors["row"] = str(reject.inner)
    headers = [*record.headers, *((_PREFIX + name, text.encode()) for name, text in errors.items())]
    origin = f"{place.topic}/{place.partition}@{record.offset}"
    return Message(topic, record.key, reject.value, headers, origin)
