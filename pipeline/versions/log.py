"""A stream's log of promotions: entries in the order of their numbers, the last of which says who serves.

Whose clock says what does not matter: the number orders, and each number is given once.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Promotion:
    """One entry of a stream's log: from here on this version serves."""

    number: int
    version: str
    promoted_ms: int
    """By the clock of who wrote it; entries are ordered by their number alone."""
    reason: str
    """What wrote it, such as `offkey train`."""
    note: str = ""
    by: str = ""
    """Who, as user@machine; "" where it is not known."""
    removed: tuple[str, ...] = ()
    """Versions that serve never again, for they are being removed; the champion stays as it was then."""
    token: str = field(default_factory=lambda: secrets.token_hex(4), compare=False)
    """Tells the entry from another writer's, where the answer to the writing was lost."""


@dataclass(frozen=True, slots=True)
class PromotionLog:
    """A stream's log as far as it can be read."""

    entries: Sequence[Promotion]
    """Oldest first."""
    last_number: int
    """The highest number that is taken, even by a damaged entry; 0: none is."""
    faults: Sequence[str]
    """What is missing or damaged, a line each: the object, and the remedy."""

    @property
    def tail(self) -> Sequence[Promotion]:
        """The entries after the last fault: what they say needs nothing that is missing."""
        whole = 0
        for entry in reversed(self.entries):
            if entry.number != self.last_number - whole:
                break
            whole += 1
        return self.entries[len(self.entries) - whole :]

    @property
    def champion(self) -> Promotion | None:
        """The entry that made the version serve which serves now; None: none does, or the last entry is damaged."""
        return made_champion(reversed(self.tail))

    @property
    def removed(self) -> frozenset[str]:
        """Versions that serve never again."""
        return frozenset(version for entry in self.entries for version in entry.removed)


def made_champion(newest_first: Iterable[Promotion]) -> Promotion | None:
    """Return the entry since which the champion serves.

    An entry that takes others out of service names the champion too, so the first of those stands in where what
    came before is not known.
    """
    found = None
    for entry in newest_first:
        found = entry
        if not entry.removed:
            break
    return found
