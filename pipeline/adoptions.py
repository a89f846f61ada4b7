"""What one partition of a stream is judged by, from which offset on: entries of a log in storage.

An entry says all that is in force from its first offset on, a model and what was said of incidents, so nothing
before it is needed to know that. It is written before the first record is judged by it. A restart follows the
entries as it reads the records again, so no record is judged again by another version than the one by which its
alerts were published.

Entries are numbered, and none begins at an earlier offset than the one before. Each number is given once: a worker
that believes to own a partition that another has taken over finds the next number taken, and learns that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.feedback import Words
from pipeline.protocols import TopicPartition


@dataclass(frozen=True, slots=True)
class Adoption:
    """One entry: what is in force from an offset on, until the next entry begins."""

    number: int
    first_offset: int
    version: str
    """Of the stream's model."""
    run: str
    """The run of a worker that wrote it."""
    words: str = ""
    """Name of what was said of the stream's incidents, by then; "": nothing."""


@dataclass(frozen=True, slots=True)
class AdoptionLog:
    """The end of a partition's log."""

    entries: Sequence[Adoption] = ()
    last_number: int = 0
    """The highest number that is taken, even by a damaged entry; 0: none is."""


class Adoptions(Protocol):
    """The logs of all partitions, kept in storage. `write` may be called on several threads."""

    def since(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> AdoptionLog:
        """Return the log from the entry on that is in force at an offset.

        Where the log begins later, or an entry before is damaged, the first that is returned begins later too.

        Raises:
            TransientError: storage does not answer.
        """

    def words(self, stream: str, name: str) -> Words | None:
        """Return what an entry names; None: it is missing or damaged, which is logged.

        Raises:
            TransientError: storage does not answer.
        """

    def keep(self, stream: str, words: Words) -> None:
        """Store what an entry is to name, before the entry; what is there already is fine. Raises as `write`."""

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        """Append an entry; False: another worker has taken that number. Writing one twice is fine.

        Raises:
            TransientError: storage does not answer, or is full; the entry may be there all the same.
            ConfigError: there is no right to write.
        """
