"""What somebody says about an incident, and the compacted topic that holds it.

A message is keyed by its incident: the newest one counts, and a tombstone takes back what was said. It carries what
its effect needs of the incident, for alerts expire and feedback does not. What cannot be read is counted and left
out: one bad message must not stop all workers of a cluster.

What the verdicts do to thresholds is told in `pipeline.stages.feedback`, which spans teach nothing in
`pipeline.excluded`.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, Protocol, Self, get_args

import msgspec

from pipeline.errors import ConfigError
from pipeline.protocols import Log, Message, PartitionRecords, RawRecord

logger = logging.getLogger(__name__)

VERSION: Literal[1] = 1
Verdict = Literal["false_alarm", "confirmed", "expected"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Subject = Literal["deviation", "silence", "storm"]
"""What an incident is of; only a deviation has a score and features."""
MOST_DEVIATIONS = 16
"""Alerts of an incident whose shares a message holds: an incident that is repeated for weeks has no end of them."""
MOST_NOTE = 1000
Milliseconds = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""Since the epoch."""
Score = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class Deviation(msgspec.Struct, frozen=True):
    """How features had to do with one alert of an incident."""

    shares: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]]
    """Part of the score that each feature caused; they sum to one."""
    signs: dict[str, Literal[-1, 1]] = {}
    """1: observed above what was expected, -1: below; left out where it lay within what is usual."""


class Feedback(msgspec.Struct, frozen=True):
    """One message: a verdict on an incident, and what its effect needs of the incident.

    Fields that a later version adds are passed over; one that would change what these mean takes another `version`.
    """

    version: Literal[1]
    incident: str
    verdict: Verdict
    by: str
    """user@machine."""
    at_ms: Milliseconds
    """When it was given."""
    stream: str
    series: str
    topic: str
    partition: int
    opened_ms: Milliseconds
    ended_ms: Milliseconds | None
    """Event time of its end; null: it was open when the feedback was given."""
    peak: Score | None
    """Its highest score so far; null: of a silence or a storm, as `threshold`."""
    threshold: Score | None
    """Its own threshold when it opened, without what other feedback had made of it."""
    deviations: list[Deviation] = []
    """Of its alerts that brought a score, oldest first."""
    subject: Subject = "deviation"
    until_ms: Milliseconds | None = None
    """Of `expected`: the first moment of event time that is not expected to be strange any more."""
    note: str = ""

    def __post_init__(self) -> None:
        if (self.verdict == "expected") != (self.until_ms is not None):
            raise ValueError("`until_ms` belongs to `expected`, and to nothing else")
        if self.subject == "deviation" and (self.peak is None or self.threshold is None):
            raise ValueError("a deviation has a peak and a threshold")


COMPACTED = "cleanup.policy=compact"


def is_compacted(policy: str) -> bool:
    """Tell whether a topic of this `cleanup.policy` keeps the newest word on each incident for good."""
    return {each.strip() for each in policy.split(",")} == {"compact"}


def require_compacted(topic: str, policy: str | None) -> None:
    """See that a topic of this `cleanup.policy` keeps what is said; None: the broker does not tell it.

    Raises:
        ConfigError: it forgets in time.
    """
    if policy is not None and not is_compacted(policy):
        raise ConfigError(
            f"topic {topic}: its cleanup.policy is {policy}, so what is said would be lost in time; set "
            f"{COMPACTED} for it"
        )


class Unreadable(ValueError):
    """A message that says nothing to this version."""


class FeedbackTopic(Protocol):
    """The topic as one sees it who reads all of it and then follows it, without a group."""

    def poll(self) -> Sequence[PartitionRecords]:
        """Return what has come since the last call, from the topic's first record on; never waits for more.

        A broker that is away for a while is no error: nothing has come.

        Raises:
            ConfigError: the topic is not there any more, or the right to read it.
            TransientError: the broker refuses for another reason; ask again.
        """

    def caught_up(self) -> bool:
        """Return whether all that it held when it was opened has been returned; never blocks."""

    def close(self) -> None:
        """Let go of the broker."""


def message(feedback: Feedback, topic: str) -> Message:
    """Return what says it."""
    return Message(topic, feedback.incident.encode(), msgspec.json.encode(feedback))


def tombstone(incident: str, topic: str) -> Message:
    """Return what takes back whatever was said of an incident."""
    return Message(topic, incident.encode(), None)


def decoded(key: bytes | None, value: bytes | None) -> tuple[str, Feedback | None]:
    """Return (the incident, what was said of it; None: it was taken back).

    Raises:
        Unreadable: it is no feedback of a version that is known here.
    """
    try:
        incident = (key or b"").decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"its key is no text: {error}") from error
    if not incident:
        raise Unreadable("it has no key")
    if value is None:
        return incident, None
    try:
        feedback = msgspec.json.decode(value, type=Feedback)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if feedback.incident != incident:
        raise Unreadable(f"its key is {incident!r:.60}, it speaks of {feedback.incident!r:.60}")
    return incident, feedback


@dataclass(frozen=True)
class Words:
    """All that was said of one stream's incidents, as of some moment."""

    said: Mapping[str, Feedback] = field(default_factory=dict)
    """By incident."""

    @cached_property
    def content(self) -> bytes:
        """They as bytes; equal words give equal bytes."""
        return msgspec.json.encode([self.said[incident] for incident in sorted(self.said)]) if self.said else b""

    @cached_property
    def name(self) -> str:
        """What tells them from others; "": nothing was said."""
        return hashlib.blake2b(self.content, digest_size=16).hexdigest() if self.said else ""

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the words of which this is the `content`.

        Raises:
            Unreadable: it is of another version, or damaged.
        """
        try:
            pieces = msgspec.json.decode(content, type=list[Feedback])
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(str(error)) from error
        return cls({each.incident: each for each in pieces})


@dataclass
class FeedbackSlot:
    """What was said of one stream's incidents; None: it is not known yet, so what acts goes on to act."""

    words: Words | None = None


class Book:
    """The newest word on each incident."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.said: dict[str, Feedback] = {}
        """By incident; one that was taken back is not in it."""
        self.unreadable = 0
        """How many messages could not be read."""

    def of(self, stream: str) -> Words:
        """Return what was said of a stream's incidents."""
        return Words({incident: each for incident, each in self.said.items() if each.stream == stream})

    def take(self, records: Iterable[RawRecord]) -> dict[str, Feedback | None]:
        """Follow the topic's next records; return what has changed. None: it was taken back.

        What is unreadable leaves the word before it as it is.
        """
        changed: dict[str, Feedback | None] = {}
        for record in records:
            try:
                incident, feedback = decoded(record.key, record.value)
            except Unreadable as error:
                self.unreadable += 1
                logger.warning("%s@%d: feedback that cannot be read: %s", self._topic, record.offset, error)
                continue
            if self.said.get(incident) == feedback:
                continue
            if feedback is None:
                del self.said[incident]
            else:
                self.said[incident] = feedback
            changed[incident] = feedback
        return changed


def read_book(log: Log, topic: str) -> Book:
    """Read a whole topic of feedback; raises as `Log.read` does."""
    book = Book(topic)
    for arrived in log.read():
        book.take(arrived.records)
    return book
