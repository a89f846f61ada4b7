"""Checkpoints on their way to storage: on a thread of their own, one at a time.

Storage may hang, a network folder for hours. Whoever hands a checkpoint over waits for it as long as it chooses;
what is still on its way then goes on by itself, and no other is begun before it has ended. The thread does not
keep the process alive: a checkpoint that is cut off is none, for each is stored whole or not at all.
"""

import threading
import time

from pipeline.protocols import Checkpoint, Checkpoints


class CheckpointWriter:
    """Writes one checkpoint at a time; called from one thread."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._begun_s = 0.0
        self.current: Checkpoint | None = None
        """The one on its way, until `finish` has told how it ended."""

    def begin(self, checkpoint: Checkpoint) -> None:
        """Write it; none other may be on its way."""
        assert self.current is None, "the one before is still on its way"
        self.current, self._error, self._begun_s = checkpoint, None, time.monotonic()
        self._thread = threading.Thread(target=self._write, args=(checkpoint,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self, wait_s: float) -> Checkpoint | None:
        """Return the checkpoint that was written; None where there is none, or it takes longer than `wait_s`.

        Raises:
            OffkeyError: storage does not take it.
        """
        if self._thread is None:
            return None
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return None
        done, self.current, self._thread = self.current, None, None
        if self._error is not None:
            raise self._error
        return done

    @property
    def taken_s(self) -> float:
        """Seconds that the current one has been on its way."""
        return time.monotonic() - self._begun_s

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._checkpoints.write(checkpoint)
        except BaseException as error:
            self._error = error
