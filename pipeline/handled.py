"""How far a stream's timetables are done, kept in storage: whoever leads next goes on from there.

`schedule/STREAM.json` is written when a run has ended for good, so one that a crash cuts off is made again. Without
it the champion's promotion stands for the last run. It fences nothing: one who writes it after losing the lead
only has a run made early or late, and the log of promotions decides what serves.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from pipeline.logs import about

logger = logging.getLogger(__name__)

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_000)]
"""Since 1970, up to the end of the year 9999, after which Python knows no dates."""


class Storage(Protocol):
    """What is asked of storage; see `pipeline.connectors.storage`."""

    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, content: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Handled:
    """The times, in ms since 1970, up to which all was done."""

    planned_ms: Milliseconds
    """Of `every` or `cron`."""
    looked_ms: Milliseconds
    """Of looks for drift."""


def read_handled(storage: Storage, stream: str, promoted_ms: int) -> Handled:
    """Return what was done; what is damaged counts for nothing.

    Raises:
        TransientError: storage does not answer.
    """
    content = storage.get(_place(stream))
    if content is not None:
        try:
            return msgspec.json.decode(content, type=Handled)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            text, said = "%s: damaged (%s); times count from the champion's promotion", about(stream=stream)
            logger.warning(text, _place(stream), error, extra=said)
    return Handled(promoted_ms, promoted_ms)


def write_handled(storage: Storage, stream: str, handled: Handled) -> None:
    """Keep it; raises TransientError where storage does not answer, ConfigError without the right to write."""
    storage.put(_place(stream), msgspec.json.encode(handled))


def _place(stream: str) -> str:
    return f"schedule/{stream}.json"
