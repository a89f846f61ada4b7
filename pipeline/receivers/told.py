"""One alert on its way to a receiver, and what a receiver has to offer to who sends it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.protocols import RawRecord, TopicPartition
from pipeline.stages.alerts import Alert


@dataclass(frozen=True, slots=True)
class Told:
    """An alert, and where it lies in its topic."""

    place: TopicPartition
    record: RawRecord
    alert: Alert


class Receiver(Protocol):
    """One receiver of alerts. All methods are called from one thread."""

    at_once: int
    """How many alerts one call of `send` may take."""
    resend_s: float | None
    """How often it wants to be told again of what is open; None: never, and it needs no `note`."""

    def note(self, told: Told) -> None:
        """Learn of an alert, in the order of its partition; `send` follows if it is to be told."""

    def forget(self, place: TopicPartition) -> None:
        """Know nothing any more of a partition."""

    def send(self, told: Sequence[Told]) -> Mapping[int, str]:
        """Tell; return what is refused for good, by index, with the reason.

        Raises:
            ReceiverAway: nothing of it counts as told, and the same call may do later.
        """

    def settle(self, place: TopicPartition) -> None:
        """Take all that was noted of a partition so far for told, but for what is open."""

    def resend(self, places: Sequence[TopicPartition]) -> None:
        """Tell again of what is open in these partitions; raises as `send` does."""

    def open(self) -> int:
        """Return how many incidents it is told of again."""
