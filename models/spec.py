"""What a model sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

Kind = Literal["series", "features", "images"]
CHANNELS = {1: ("",), 3: (".red", ".green", ".blue"), 4: (".red", ".green", ".blue", ".alpha")}
"""What is added to the name of a pixel for each channel, by how many there are."""
MOST_PIXEL_VALUES = 2**18
"""Of one image: 512 x 512 in grey, 295 x 295 in colour."""


class ImageShape(NamedTuple):
    """The size of every image of a stream; its values stand row by row, pixel by pixel, channel by channel."""

    height: int
    width: int
    channels: int

    @property
    def values(self) -> int:
        return self.height * self.width * self.channels

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each value: `row3.column7.red`, both counted from 0 at the top left."""
        return _names(self)

    def __str__(self) -> str:
        return f"{self.height} x {self.width} pixels of {self.channels} channel" + "s" * (self.channels > 1)


@cache
def _names(shape: ImageShape) -> tuple[str, ...]:
    return tuple(
        f"row{row}.column{column}{channel}"
        for row in range(shape.height)
        for column in range(shape.width)
        for channel in CHANNELS[shape.channels]
    )


@dataclass(frozen=True)
class ModelSpec:
    """The input of a detector: windows of a time series, or single records of features, or images."""

    kind: Kind
    features: tuple[str, ...]
    window: int
    """Time steps of a window; 1 for features and images."""
    image: ImageShape | None = None
    """Of images, whose features are the values of their pixels."""

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a model needs at least one feature")
        if self.kind != "series" and self.window != 1:
            raise ValueError(f"records of kind {self.kind} are judged one by one: window is 1, not {self.window}")
        if self.kind == "series" and self.window < 2:
            raise ValueError(f"a window of a series has at least 2 points, not {self.window}")
        if (self.kind == "images") != (self.image is not None):
            raise ValueError("images, and nothing else, have a height, a width and channels")
        if self.image is not None and self.features != self.image.names:
            raise ValueError(f"images of {self.image} have {self.image.values:,} features, one a value")


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Return names for a message, which stays a line though there are thousands: `a, b, c and 9,997 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
