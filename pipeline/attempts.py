"""How often something was tried in vain, and when it may be tried again: at waits that double."""

from collections.abc import Hashable
from dataclasses import dataclass, field

_LONGEST_WAIT_S = 3600.0


@dataclass
class _Tries:
    failed: int
    not_before_s: float


@dataclass
class Attempts:
    """The failed tries of each thing, since it last succeeded."""

    _tries: dict[Hashable, _Tries] = field(default_factory=dict)

    def may(self, what: Hashable, now_s: float) -> bool:
        """Return whether it may be tried now."""
        return what not in self._tries or now_s >= self._tries[what].not_before_s

    def fail(self, what: Hashable, now_s: float, first_wait_s: float) -> int:
        """Note a try in vain; return how many there were."""
        failed = self._tries[what].failed + 1 if what in self._tries else 1
        # The power is bounded: a first model may be refused for years.
        wait_s = min(first_wait_s * 2.0 ** min(failed - 1, 30), _LONGEST_WAIT_S)
        self._tries[what] = _Tries(failed, now_s + wait_s)
        return failed

    def wait_s(self, what: Hashable, now_s: float) -> float:
        """Return how long it may not be tried yet."""
        return max(self._tries[what].not_before_s - now_s, 0.0) if what in self._tries else 0.0

    def forget(self, what: Hashable) -> None:
        self._tries.pop(what, None)

    def clear(self) -> None:
        self._tries.clear()
