"""Requests to train a stream at once: messages of the control topic, which the scheduler reads.

The topic has one partition. The scheduler that owns it leads, and trains; a request is committed when its training
has ended, so none is lost with the scheduler that began it.
"""

from dataclasses import dataclass

import msgspec

from pipeline.errors import ConfigError
from pipeline.protocols import Message

_KIND = "retrain"


class Unreadable(ValueError):
    """A message that is no request; one line that says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    stream: str
    asked_ms: int
    """By the clock of who asks."""
    by: str = ""
    """Who, as user@machine."""


class _Wire(msgspec.Struct):
    request: str
    stream: str
    asked_ms: int
    by: str = ""


def message_of(request: Request, topic: str) -> Message:
    """Return a request as it is sent."""
    wire = _Wire(_KIND, request.stream, request.asked_ms, request.by)
    return Message(topic, request.stream.encode(), msgspec.json.encode(wire))


def require_one_partition(topic: str, partitions: int) -> None:
    """See that the topic is one by which a scheduler can lead.

    Raises:
        ConfigError: it has several partitions.
    """
    if partitions != 1:
        raise ConfigError(
            f"topic {topic} has {partitions} partitions, and who owns the only one trains; create it anew with "
            "one partition, or set another one as topics.control"
        )


def request_of(value: bytes | None) -> Request:
    """Read a request; fields that a later version of offkey adds are passed over.

    Raises:
        Unreadable: it is none.
    """
    try:
        wire = msgspec.json.decode(value or b"", type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a request ({error})") from error
    if wire.request != _KIND:
        raise Unreadable(f"a request for {wire.request!r:.60}, which this version does not know")
    return Request(wire.stream, wire.asked_ms, wire.by)
