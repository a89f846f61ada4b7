"""How often each item was begun by processes of Ray, beyond the death of who began it.

A file of its own: the process that counts then imports neither torch nor Ray Data, which takes seconds.
"""

from collections import Counter


class Tries:
    """An actor."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Count that an item is begun; return how often it was."""
        self._begun[number] += 1
        return self._begun[number]
