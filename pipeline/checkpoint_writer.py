"""Parts of checkpoints on their way to storage: on a thread of their own, one at a time.

Storage may hang, a network folder for hours. Whoever hands a part over waits for it as long as it chooses; what is
still on its way then goes on by itself, and no other is begun before it has ended. The thread does not keep the
process alive: a part that is cut off is none, for each is stored whole or not at all. Hashing and writing leave
Python's lock to the records.
"""

import threading
import time

from pipeline.protocols import Checkpoints, Part


class CheckpointWriter:
    """Writes one part at a time; called from one thread."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._begun_s = 0.0

    def begin(self, part: Part) -> None:
        """Write it; none other may be on its way."""
        assert self._thread is None, "the one before is still on its way"
        self._error, self._begun_s = None, time.monotonic()
        self._thread = threading.Thread(target=self._write, args=(part,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self, wait_s: float) -> bool:
        """Return whether the part was written; False where it takes longer than `wait_s`.

        Raises:
            OffkeyError: storage does not take it.
        """
        assert self._thread is not None, "none is on its way"
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return False
        self._thread = None
        if self._error is not None:
            raise self._error
        return True

    @property
    def taken_s(self) -> float:
        """Seconds that the current part has been on its way."""
        return time.monotonic() - self._begun_s

    def _write(self, part: Part) -> None:
        try:
            self._checkpoints.write(part)
        except BaseException as error:
            self._error = error
