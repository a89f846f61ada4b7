"""The end of a worker: a request to stop, the time that is left for it, and the end of those who overstay it.

A signal is noticed on a thread of its own, through the descriptor that the interpreter's own handler writes to:
Python runs a handler only between two steps of the main thread, which may hang inside a storage library for ever.
From the first signal on the process has `budget_s`; flush, last checkpoint and leave each take of it what is left.
When it is over, or at a second signal, the process ends where it stands. That loses nothing: what was not
committed is read again, and what was not checkpointed is replayed.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLOSED_WITHIN_S = 5.0


class Stop(threading.Event):
    """A request to stop, with a deadline that begins with it."""

    def __init__(self, budget_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.budget_s, self._clock = budget_s, clock
        self._deadline_s: float | None = None
        self.begun = False
        """Whether there is anything to finish: set by who does the work, before it looks whether to stop."""

    def set(self) -> None:
        if self._deadline_s is None:
            self._deadline_s = self._clock() + self.budget_s
        super().set()

    def left_s(self, share: float = 1.0) -> float:
        """Return the seconds until all has to be done, less those that later steps need; endless before a request.

        `share`: how much of the budget may be gone when this step is over.
        """
        if self._deadline_s is None:
            return float("inf")
        return max(self._deadline_s - (1 - share) * self.budget_s - self._clock(), 0.0)

    def closing_s(self) -> float:
        """Return the seconds that a connection may take to close."""
        return min(_CLOSED_WITHIN_S, self.left_s())


def stop_on_signals(
    stop: Stop, unfinished: Callable[[], str], end: Callable[[int], object] = os._exit
) -> Callable[[], None]:
    """Set `stop` on SIGTERM or SIGINT, and see that the process ends in time; call it on the main thread.

    `unfinished` says in a few words what an end at once leaves undone. `end` ends the process with a status: 0
    before anything was begun, 1 when time is up, 128 and the signal's number at a second signal. Returns what
    gives the signals back to whom they belonged before.
    """
    hearing, telling = socket.socketpair()
    telling.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    fd_before = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)

    def restore() -> None:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        telling.close()  # The thread hears the end, and ends.

    # The thread holds both ends: a socket that nobody holds closes, and its number may be another file's then.
    ends = hearing, telling
    threading.Thread(
        target=_wait_for_signals, args=(ends, stop, unfinished, end), name="signals", daemon=True
    ).start()
    return restore


def _wait_for_signals(
    ends: tuple[socket.socket, socket.socket],
    stop: Stop,
    unfinished: Callable[[], str],
    end: Callable[[int], object],
) -> None:
    hearing, _ = ends
    with hearing:
        if _next_signal(hearing, None) is None:
            return
        stop.set()
        if not stop.begun:
            _say("stopped before a record was read")
            end(0)
            return
        try:
            second = _next_signal(hearing, stop)
        except TimeoutError:
            _say(f"did not stop within {stop.budget_s:g} s and ends now; {unfinished()}")
            end(1)
            return
        if second is not None:
            _say(f"ends at once at a second signal; {unfinished()}")
            end(128 + second)


def _next_signal(hearing: socket.socket, stop: Stop | None) -> int | None:
    """Return the next of our signals, None when nobody tells of them any more.

    Raises:
        TimeoutError: the time of `stop` is over.
    """
    while True:
        left_s = None if stop is None else stop.left_s()
        if left_s == 0:
            raise TimeoutError
        hearing.settimeout(left_s)
        told = hearing.recv(1)
        if not told:
            return None
        if told[0] in SIGNALS:
            return told[0]


def _say(text: str) -> None:
    print(f"offkey: {text}", file=sys.stderr, flush=True)
