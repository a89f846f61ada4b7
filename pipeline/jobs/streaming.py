"""All rows through one step, part by part: a part is written while the next is made and the one after it is read.

The parts that are whole already are read and not worked on; a step that carries something from part to part is
shown them. The same parts made by several processes: `pipeline.jobs.spread`.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol, TypeVar

from pipeline.jobs.blocks import Block, Column, Input, recut
from pipeline.jobs.parts import Parts

T = TypeVar("T")
Made = tuple[Mapping[str, Column], Mapping[str, Any]]
"""What is written of a part, and what is to be added up over all parts."""
PART_ROWS = 262_144


class Step(Protocol):
    """What is made of a part's rows."""

    def columns(self, block: Block) -> Made:
        """Return what is made of the next rows."""

    def passed(self, block: Block) -> None:
        """See the next rows, of which a part is whole already."""

    carried: Any
    """What it carries from part to part; None: nothing."""


def stream(
    source: Input, parts: Parts, part_rows: int, step: Step, seen: Mapping[str, Any],
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the parts that are not there yet, each also as `seen`; `progress` is told how many rows are done."""
    done = 0
    progress(done)
    for rows, made in ahead(_made(source, len(parts.entries), part_rows, step)):
        if made is not None:
            columns, sums = made
            parts.add(columns, done, rows, {**seen, **sums})
        done += rows
        progress(done)


def _made(source: Input, whole: int, part_rows: int, step: Step) -> Generator[tuple[int, Made | None], None, None]:
    """Yield each part's rows and what is made of them; None of those that are whole."""
    for number, block in enumerate(ahead(recut(source.blocks(), part_rows))):
        if number < whole:
            step.passed(block)
        yield len(block), None if number < whole else step.columns(block)


def ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """Yield the same items, the next one being made on a thread of its own meanwhile."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(1)
    over = threading.Event()

    def give(item: T | None, error: BaseException | None) -> bool:
        while not over.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            # Closed here, on the thread that runs it: what reads ahead for it ends with it.
            with closing(items):
                for item in items:
                    if not give(item, None):
                        return
        except BaseException as error:
            give(None, error)
        else:
            give(None, StopIteration())

    thread = threading.Thread(target=make, name="reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        over.set()
        thread.join()
