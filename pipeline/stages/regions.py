"""An image's values, joined to regions: what explains an alert is told of at most 4 x 4 of them.

Of thousands of pixels nobody reads what each has to do with a score, and messages have a size. A region's share is
the sum of its pixels' shares, its observed, expected and usual values are their means. Feedback compares alerts by
their regions and on which side of what was expected these lie. The strangest single values stand beside them.

Legend: K images, F values of each, H height, W width, C channels, R regions.
"""

import numpy as np

from models.arrays import FloatArray
from models.spec import ImageShape
from pipeline.stages.alerts import PixelView, pixel_view

BANDS = 4
"""Of rows and of columns at most."""
PIXELS = 16
"""Single values that an alert names."""


class Regions:
    """Where each region of an image begins and ends."""

    def __init__(self, shape: ImageShape) -> None:
        self._shape = shape
        self._rows, self._columns = (_begins(side) for side in shape[:2])
        self._count_R = np.multiply.outer(*(
            np.diff(np.append(begins, side))
            for begins, side in ((self._rows, shape.height), (self._columns, shape.width))
        )).reshape(-1) * shape.channels  # fmt: skip
        self.names = [
            f"rows {top}-{bottom}, columns {left}-{right}"
            for top, bottom in _spans(self._rows, shape.height)
            for left, right in _spans(self._columns, shape.width)
        ]

    def sums(self, x_KF: FloatArray) -> FloatArray:
        """Return the sum over each region, x_KR."""
        x_KHWC = x_KF.reshape(-1, *self._shape)
        of_rows_KBWC = np.add.reduceat(x_KHWC, self._rows, axis=1)
        return np.asarray(
            np.add.reduceat(of_rows_KBWC.sum(axis=3), self._columns, axis=2).reshape(len(x_KF), len(self.names))
        )

    def means(self, x_KF: FloatArray) -> FloatArray:
        """Return the mean over each region, x_KR."""
        return np.asarray(self.sums(x_KF) / self._count_R)

    def strangest(self, observed_F: FloatArray, expected_F: FloatArray, share_F: FloatArray) -> list[PixelView]:
        """Return the values of largest share, largest first."""
        largest = np.argsort(-share_F, kind="stable")[:PIXELS].tolist()
        numbers = ((float(of_F[place]) for of_F in (observed_F, expected_F, share_F)) for place in largest)
        return [pixel_view(*self._place(place), *told) for place, told in zip(largest, numbers, strict=True)]

    def _place(self, value: int) -> tuple[int, int, int]:
        row, column, channel = np.unravel_index(value, self._shape)
        return int(row), int(column), int(channel)


def _begins(side: int) -> list[int]:
    """Return where each band begins; they are of one length, but for the last."""
    return list(range(0, side, -(-side // BANDS)))


def _spans(begins: list[int], side: int) -> list[tuple[int, int]]:
    """Return the first and the last row of each band."""
    return [(begin, end - 1) for begin, end in zip(begins, [*begins[1:], side], strict=True)]
