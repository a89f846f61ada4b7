"""Ctrl-C between two steps of a long work, and not inside a library.

Python raises KeyboardInterrupt wherever it is just then. A library that calls back into Python may take that for a
fault of the file it reads, and what a finaliser raises is lost.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_between_steps() -> Iterator[Callable[[], None]]:
    """Give what raises KeyboardInterrupt once Ctrl-C has come; a second Ctrl-C is raised where it comes.

    For the main thread, to whom signals belong.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    def step() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield step
    finally:
        signal.signal(signal.SIGINT, before)
