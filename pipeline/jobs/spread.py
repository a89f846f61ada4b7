"""The parts of `pipeline.jobs.streaming`, made by several processes, in any order, and written here in theirs.

Each process reads the rows of a part by itself, from the place where they begin, which is noted as all rows are
looked at. What a step carries from part to part is reckoned then, too, and goes with the part. The bytes of a part
come back, and are written and listed as those of a part that was made here: so a process that dies leaves no half
file, and a run that is stopped goes on with this engine or the other.

Memory here is that of `streaming`; the engine holds what is carried to each part, which of a thousand series is
some megabytes a part.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import SnapshotError
from pipeline.jobs.blocks import Block, Cutting, Divisible, recut
from pipeline.jobs.engine import Engine, Work
from pipeline.jobs.parts import Parts, encoded
from pipeline.jobs.series_windows import SeriesWindows
from pipeline.jobs.streaming import Step


@dataclass(frozen=True)
class Item:
    """One part that is to be made."""

    begin: int
    """Number of its first row."""
    rows: int
    place: Any
    """Of that row, for the input."""
    last: Any
    """Of its last row."""
    carried: bytes | None
    """What the step carries there, pickled."""


@dataclass(frozen=True)
class Made:
    """A part as bytes."""

    content: bytes
    rows: int
    sums: Mapping[str, Any]


class Begins:
    """Where each part of an input begins; is shown all of its blocks in their order."""

    def __init__(
        self, source: Divisible, part_rows: int, engine: Engine, whole: int, carried: SeriesWindows | None = None
    ) -> None:
        """`whole` parts are there already and are not made again."""
        self.engine = engine
        self._source, self._part_rows, self._whole = source, part_rows, whole
        self._carried, self._cutting = carried, Cutting(part_rows)
        self._number, self._rows = 0, 0
        self._places: list[Any] = []
        self._lasts: list[Any] = []
        """Of the last row of each part, so far."""
        self.items: list[Any] = []
        """As the engine keeps them."""

    def see(self, block: Block) -> None:
        if not len(block):
            return
        while (first := len(self._places) * self._part_rows - self._rows) < len(block):
            self._places.append(self._source.place(block, first))
        del self._lasts[self._rows // self._part_rows :]
        for number in range(len(self._lasts), len(self._places)):
            end = min((number + 1) * self._part_rows - self._rows, len(block))
            self._lasts.append(self._source.place(block, end - 1))
        self._rows += len(block)
        if self._carried is not None:
            for part in self._cutting.add(block):
                self._begin()
                self._carried.passed(part)

    def end(self) -> None:
        """Take note that there are no more rows."""
        while self._number < len(self._places):
            self._begin()

    def _begin(self) -> None:
        """Have the engine keep the next part as an item, with what is carried up to it."""
        number, self._number = self._number, self._number + 1
        if number >= self._whole:
            carried = None if self._carried is None else pickle.dumps(self._carried)
            begin = number * self._part_rows
            rows = min(self._part_rows, self._rows - begin)
            item = Item(begin, rows, self._places[number], self._lasts[number], carried)
            self.items.append(self.engine.keep(item))


@dataclass(frozen=True)
class PartTask:
    """Makes parts of an input by a step."""

    source: Divisible
    part_rows: int
    step: Callable[[torch.device], Step]
    """Makes the step; it travels."""

    def opened(self, device: torch.device) -> Work:
        step = self.step(device)

        def make(item: Item) -> Iterator[Made]:
            if item.carried is not None:
                step.carried = pickle.loads(item.carried)
            with closing(recut(as_seen(self.source, item), self.part_rows)) as blocks:
                block = next(blocks)
            columns, sums = step.columns(block)
            yield Made(bytes(encoded(columns, item.begin, len(block))), len(block), sums)

        return make


def as_seen(source: Divisible, item: Item) -> Iterator[Block]:
    """Yield the rows of a part.

    Raises:
        SnapshotError: they are not those that were seen: some were removed, or others came in between.
    """
    rows = 0
    for block in source.blocks(item.place):
        left = item.rows - rows
        wrong = rows == 0 and block.begin != item.place
        if wrong or (left <= len(block) and source.place(block, left - 1) != item.last):
            break
        yield block.cut(0, left)
        rows += min(left, len(block))
        if rows == item.rows:
            return
    raise SnapshotError(
        f"rows {item.begin:,} to {item.begin + item.rows - 1:,} are not those that were there at first; see who "
        "changes or removes them, then begin anew with --overwrite"
    )


def spread(
    task: PartTask, begins: Begins, parts: Parts, seen: Mapping[str, Any], progress: Callable[[int], None]
) -> None:
    """Write the parts that are not there yet, each also as `seen`; `progress` is told how many rows are done.

    Raises:
        TransientError: the disk is full or away, or a process of the engine has ended too often; parts that are
            entered stay whole.
    """
    begins.end()
    done = sum(entry["rows"] for entry in parts.entries)
    progress(done)
    with closing(begins.engine.map(task, begins.items)) as made:
        for part in made:
            parts.add_content(part.content, done, part.rows, {**seen, **part.sums})
            done += part.rows
            progress(done)
