"""What is asked of a record, and what every format answers with.

Legend: N rows of a record, F features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, IntArray
from models.spec import ImageShape

Path = tuple[str, ...]
"""Names from the outer object inwards: ("cpu", "load") is the 2 of {"cpu": {"load": 2}}."""


@dataclass(frozen=True)
class Fields:
    """What to read from each record."""

    features: Sequence[Path]
    series: Sequence[Path] = ()
    """Fields that together name the series; empty: the record's key names it."""
    time: Path | None = None
    time_is_text: bool = False
    """The time field holds ISO 8601 text instead of a number."""
    optional_features: bool = False
    """A feature may be null or absent and is then None."""


class Malformed(Exception):
    """A value that cannot be decoded; `reason` is a metric label, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Column:
    """One field of many rows."""

    value_N: npt.NDArray[Any]
    """Numbers of any type; of no meaning where missing."""
    missing_N: BoolArray | None = None
    """Where the field is null; None: nowhere."""


@dataclass(frozen=True, slots=True)
class Names:
    """One field that names the series of many rows: each name once."""

    names: tuple[str | int | None, ...]
    """The same object for equal names of the same format, where that is known."""
    code_N: IntArray
    """Index in `names` of each row; -1 where the field is null."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one record, as columns."""

    count: int
    features: Sequence[Column | None]
    """None: the field is not there, and may be missing."""
    series: Sequence[Names]
    """Of each field that names the series."""
    time: Column | None
    """None where no field is asked for."""
    time_unit: str | None
    """What the time's type says of its unit; None where it is a plain number."""


class TableFormat(Protocol):
    """A format whose record holds many rows."""

    def decode(self, value: bytes) -> Iterator[Rows]:
        """Return the rows of one value, in their order.

        Raises:
            Malformed: it cannot be read as a whole, or its columns are not those asked for.
        """

    def count(self, value: bytes) -> int:
        """Return how many rows a value claims, at little cost; 0 where that cannot be told."""

    def row(self, value: bytes, number: int) -> bytes:
        """Return one row of a value that was decoded, as a value of the same columns."""


class ImageFormat(Protocol):
    """A format of images of one size."""

    def decode(self, value: bytes) -> npt.NDArray[np.uint8]:
        """Return the values of the pixels of each image, x_NF.

        Raises:
            Malformed: it cannot be read, or is of another size or other channels.
        """

    def count(self, value: bytes) -> int:
        """Return how many images a value claims, at little cost; 0 where that cannot be told."""


def wrong_size(found: Sequence[int], shape: ImageShape) -> Malformed:
    """Return what is wrong with an image, or a tensor, that is of another size."""
    sides = " x ".join(f"{side:,}" for side in found)
    asked = " x ".join(f"{side:,}" for side in shape[: len(found)])
    order = " x ".join(shape._fields[: len(found)])
    return Malformed("wrong_size", f"it is {sides}, and `image` asks for {asked} ({order})")
