"""What a model sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["series", "features"]


@dataclass(frozen=True)
class ModelSpec:
    """The input of a detector: windows of a time series, or single records of features."""

    kind: Kind
    features: tuple[str, ...]
    window: int
    """Time steps of a window; 1 for features."""

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a model needs at least one feature")
        if self.kind == "features" and self.window != 1:
            raise ValueError(f"records of kind features are judged one by one: window is 1, not {self.window}")
        if self.kind == "series" and self.window < 2:
            raise ValueError(f"a window of a series has at least 2 points, not {self.window}")


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Return names for a message, which stays a line though there are thousands: `a, b, c and 9,997 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
