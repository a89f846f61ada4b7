"""What tells an image from others, in few numbers whatever its size: for comparing many with many.

Of each of 4 x 4 regions and each channel the mean, the spread, and the mean step to the next pixel, which is small
where an image is blurred and large where there is noise; and how far the image lies along the directions in which
the images vary most, which tell shapes that regions do not. Pixels by themselves would tell less, and of a large
image cost more.

Legend: N images, F values of each, H height, W width, C channels, P directions.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray
from models.spec import CHANNELS, ImageShape

_BANDS, _DIRECTIONS, _MOST_LEARNED = 4, 32, 1_024
_LOOKED_VALUES = 2**22
"""Of images that are looked at together."""
MEASURES = ("mean", "spread", "step")


class ImageNumbers:
    """Measures images of one shape."""

    def __init__(self, shape: ImageShape, learned_NF: npt.NDArray[Any]) -> None:
        """Take the directions of variation from images, of which there is one at least."""
        self._shape = shape
        some_NF = learned_NF[:: -(-len(learned_NF) // _MOST_LEARNED)].astype(np.float64)
        self._mean_F = some_NF.mean(axis=0)
        some_NF -= self._mean_F
        # Of many values the few images tell the directions: what is decomposed is as small as their number.
        square_N, vectors_NN = np.linalg.eigh(some_NF @ some_NF.T)
        count = min(_DIRECTIONS, int((square_N > square_N[-1] * 1e-9).sum()) if square_N[-1] > 0 else 0)
        largest = slice(len(square_N) - count, None)
        root_P = np.sqrt(square_N[largest])
        self._direction_FP = (some_NF.T @ vectors_NN[:, largest] / root_P)[:, ::-1]
        rows, columns = (_bands(side) for side in shape[:2])
        self._regions = [(each, other) for each in rows for other in columns]
        self.names = (
            *(f"{measure} of {each}" for measure in MEASURES for each in self._named()),
            *(f"direction {number}" for number in range(count)),
        )

    def of(self, x_NF: npt.NDArray[Any]) -> FloatArray:
        """Return the numbers of each image, x_ND."""
        none = np.empty((0, len(self.names)))
        at_once = max(1, _LOOKED_VALUES // self._shape.values)
        parts = [self._of(x_NF[begin : begin + at_once]) for begin in range(0, len(x_NF), at_once)]
        return np.concatenate([none, *parts])

    def _of(self, x_NF: npt.NDArray[Any]) -> FloatArray:
        x_NF = x_NF.astype(np.float64)
        x_NHWC = x_NF.reshape(-1, *self._shape)
        step_NHWC = np.zeros_like(x_NHWC)
        step_NHWC[:, :, :-1] = np.abs(np.diff(x_NHWC, axis=2))
        step_NHWC[:, :-1] += np.abs(np.diff(x_NHWC, axis=1))
        means, spreads, steps = (
            [of(x_NHWC[:, rows, columns]) for rows, columns in self._regions]
            for of, x_NHWC in ((_means, x_NHWC), (_spreads, x_NHWC), (_means, step_NHWC))
        )
        return np.concatenate([*means, *spreads, *steps, (x_NF - self._mean_F) @ self._direction_FP], axis=1)

    def _named(self) -> list[str]:
        channels = [channel.replace(".", ", ") for channel in CHANNELS[self._shape.channels]]
        return [
            f"rows {rows.start}-{rows.stop - 1}, columns {columns.start}-{columns.stop - 1}{channel}"
            for rows, columns in self._regions
            for channel in channels
        ]


def _bands(side: int) -> list[slice]:
    """Return parts of an axis; of a short one, single pixels."""
    edge = np.linspace(0, side, min(side, _BANDS) + 1).round().astype(int).tolist()
    return [slice(begin, end) for begin, end in pairwise(edge)]


def _means(x_NHWC: FloatArray) -> FloatArray:
    return np.asarray(x_NHWC.mean(axis=(1, 2)), np.float64)


def _spreads(x_NHWC: FloatArray) -> FloatArray:
    return np.asarray(x_NHWC.std(axis=(1, 2)), np.float64)
