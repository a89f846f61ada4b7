"""A write on its way to storage, beside the loop that waits for nothing."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Written = TypeVar("Written")


class Flight(Generic[Written]):
    """A write on a thread of its own, which keeps no process alive: one that is cut off is none."""

    def __init__(self, write: Callable[[], Written], name: str) -> None:
        self._write = write
        self._written: Written | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._begun_s = time.monotonic()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def landed(self, patience_s: float) -> bool:
        """Return whether it is decided what became of it, so long after it began."""
        return self._ended.wait(max(self._begun_s + patience_s - time.monotonic(), 0))

    def result(self) -> Written | None:
        """Return what `write` did, once it has landed; raises as it does."""
        if self._error is not None:
            raise self._error
        return self._written

    def _run(self) -> None:
        try:
            self._written = self._write()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
