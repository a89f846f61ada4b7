"""Several programs on one storage, one call at a time, in an order that the test chooses."""

import threading
from collections.abc import Callable
from typing import Any

from pipeline.connectors.memory import MemoryStorage

_DEADLINE_S = 30.0


class Killed(BaseException):
    """Ends a program at a call of storage, which is not made. Nothing of ours catches it."""


class Program:
    """Runs on a thread of its own, which waits before each call of storage."""

    def __init__(self, storage: MemoryStorage, run: Callable[[Any], None]) -> None:
        self.error: BaseException | None = None
        self.ended = False
        self._storage, self._run = storage, run
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = False
        threading.Thread(target=self._live, daemon=True).start()
        self._wait()

    def step(self) -> None:
        """Let it make its next call, and return when it is about to make another one or has ended."""
        if not self.ended:
            self._go.release()
            self._wait()

    def kill(self) -> None:
        """End it before its next call."""
        self._killed = True
        while not self.ended:
            self.step()

    def __getattr__(self, name: str) -> Any:
        """Stand in the place of storage."""
        wanted = getattr(self._storage, name)
        if not callable(wanted):
            return wanted

        def call(*args: Any) -> Any:
            self._waits.release()
            assert self._go.acquire(timeout=_DEADLINE_S)
            if self._killed:
                raise Killed
            return wanted(*args)

        return call

    def _live(self) -> None:
        try:
            self._run(self)
        except BaseException as error:  # Whatever it is, the test looks at it.
            self.error = error
        self.ended = True
        self._waits.release()

    def _wait(self) -> None:
        assert self._waits.acquire(timeout=_DEADLINE_S)
