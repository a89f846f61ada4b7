"""How long a loop tries again what fails outside of it, and how long it waits between two tries."""

import logging
from collections.abc import Callable

from pipeline.errors import TransientError
from pipeline.stopping import Stop

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.2, 5.0


class Patience:
    """Waits that double while tries fail, until they have failed for `deadline_s`."""

    def __init__(self, deadline_s: float, clock: Callable[[], float]) -> None:
        self._deadline_s, self._clock = deadline_s, clock
        self.renew()

    def renew(self) -> None:
        """Begin anew, after a try that did not fail."""
        self._failing_since_s: float | None = None
        self._backoff_s = _FIRST_BACKOFF_S

    def wait(self, error: TransientError, stop: Stop) -> None:
        """Wait before the next try, or until `stop` is set.

        Raises:
            TransientError: `error`, where tries have failed for longer than the deadline.
        """
        now_s = self._clock()
        self._failing_since_s = now_s if self._failing_since_s is None else self._failing_since_s
        if now_s - self._failing_since_s > self._deadline_s:
            raise error
        logger.warning("trying again in %.1f s: %s", self._backoff_s, error)
        stop.wait(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)
