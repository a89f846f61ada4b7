"""Versions in shadow: which one scores beside a stream's champion, and what was seen of the two, in storage.

A version in shadow judges the records that the champion judges, and alerts nobody. Which one it is says a log of
appointments, numbered as promotions are. What was seen is kept by each run of a worker for itself, as a tally that
replaces its last one, so no two write the same object and none is read back: together they are what was seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

Side = Literal["champion", "shadow"]
SIDES: tuple[Side, Side] = ("champion", "shadow")
MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Appointment:
    """One entry of a stream's log: from here on this version is in shadow."""

    number: int
    version: str
    """"": none is."""
    appointed_ms: int
    """By the clock of who wrote it."""
    note: str = ""
    by: str = ""
    """Who, as user@machine; "" where it is not known."""


class Example(msgspec.Struct, frozen=True):
    """An incident that one of the two had by itself."""

    side: Side
    incident: str
    """Its id; in alerts, if it is the champion's."""
    series: str
    begun_ms: int
    """Event time, as `ended_ms`; of one that was reopened, of that."""
    ended_ms: int
    score: float
    """Its highest."""
    topic: str
    partition: int
    offset: int
    """Of the record with which it began."""


class Counts(msgspec.Struct):
    """Of one of the two."""

    points: int = 0
    """That got a score."""
    incidents: int = 0
    """That began, or began again; of kind `features` each record that reaches the threshold."""
    shared: int = 0
    """Of these, that were open while the other had one open in the same series."""
    alone: int = 0
    """Of these, that ended without; what is neither is open."""


class Tally(msgspec.Struct):
    """What a run of a worker has seen of a version in shadow and the champions beside it."""

    version: str
    since_ms: int
    """Kafka timestamps of the first record and the last one; ms since the epoch, -1: the topic has none."""
    until_ms: int
    records: int = 0
    champion: Counts = msgspec.field(default_factory=Counts)
    shadow: Counts = msgspec.field(default_factory=Counts)
    examples: list[Example] = msgspec.field(default_factory=list)
    """The newest that one of the two had by itself."""

    def of(self, side: Side) -> Counts:
        """Return what was counted of a side."""
        return self.champion if side == "champion" else self.shadow


class Shadows(Protocol):
    """The versions in shadow of all streams, kept in storage."""

    def appointed(self, stream: str) -> Appointment | None:
        """Return the newest entry; None: there is none.

        Raises:
            RegistryError: it is damaged.
            TransientError: storage does not answer.
        """

    def appoint(self, stream: str, appointment: Appointment) -> None:
        """Append to the log.

        Raises:
            PromotionLost: another writer has taken that number.
        """

    def keep(self, stream: str, run: str, tally: Tally) -> None:
        """Store what a run has seen, over what it stored before.

        Raises:
            TransientError: storage does not answer.
            ConfigError: there is no right to write.
        """

    def seen(self, stream: str, version: str) -> tuple[Sequence[Tally], Sequence[str]]:
        """Return (what every run has seen of a version, what is damaged, a line each)."""

    def forget(self, stream: str, version: str) -> None:
        """Delete what was seen of a version."""


def appoint(
    shadows: Shadows, stream: str, before: Appointment | None, version: str, at_ms: int, *, note: str, by: str
) -> None:
    """Have a version in shadow, or none by "", from the entry on that follows `before`.

    Raises:
        PromotionLost: the log has gone on since `before` was read.
    """
    number = 1 if before is None else before.number + 1
    shadows.appoint(stream, Appointment(number, version, at_ms, note, by))


def together(tallies: Iterable[Tally]) -> Tally | None:
    """Return what was seen by all runs; None: nothing was."""
    whole: Tally | None = None
    for tally in tallies:
        if whole is None:
            whole = Tally(tally.version, tally.since_ms, tally.until_ms)
        whole.since_ms, whole.until_ms = min(whole.since_ms, tally.since_ms), max(whole.until_ms, tally.until_ms)
        whole.records += tally.records
        for side in SIDES:
            for name in Counts.__struct_fields__:
                both = getattr(whole.of(side), name) + getattr(tally.of(side), name)
                setattr(whole.of(side), name, both)
        whole.examples += tally.examples
    if whole is not None:
        whole.examples = sorted(whole.examples, key=lambda example: example.ended_ms)[-MOST_EXAMPLES:]
    return whole


def tally_json(tally: Tally) -> Mapping[str, object]:
    """Return a tally for programs."""
    built: Mapping[str, object] = msgspec.to_builtins(tally)
    return built
