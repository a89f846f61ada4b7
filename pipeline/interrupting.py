"""Ctrl-C, or SIGTERM, between two steps of a long work, and not inside a library.

Python raises KeyboardInterrupt wherever it is just then. A library that calls back into Python may take that for a
fault of the file it reads, and what a finaliser raises is lost.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.stopping import SIGNALS


class Stopped(Exception):
    """The user stopped the run; its text says what is written and how to go on."""


@contextmanager
def interrupted_between_steps() -> Iterator[Callable[[], None]]:
    """Give what raises KeyboardInterrupt once a signal has come; a second one is raised where it comes.

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

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield step
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
