"""The step of `offkey reduce --decode`: codes of a part -> the rows that they stand for.

Legend: N rows, B rows that are decoded together, F features, D numbers of a code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.arrays import BoolArray, FloatArray
from models.codes import Coder
from pipeline.connectors.parquet import Array
from pipeline.connectors.snapshot_files import PIXELS
from pipeline.jobs import coding
from pipeline.jobs.blocks import Block, Column, named_apart

_DECODED_VALUES = 2**22
"""Of images that are decoded together: 32 MiB of each of the arrays on the way."""


class Decoding:
    """Codes -> rows in their units."""

    carried = None

    def __init__(self, coder: Coder) -> None:
        self._coder = coder

    def columns(self, block: Block) -> tuple[Mapping[str, Column], Mapping[str, Any]]:
        usable_N = block.usable_N
        values: dict[str, Column]
        if self._coder.detector.spec.image is not None:
            values = {PIXELS: self._pixels(block.values_NF, usable_N)}
        else:
            values_NF = np.full((len(block), len(self._coder.features)), np.nan)
            values_NF[usable_N] = self._coder.decode(block.values_NF[usable_N].astype(np.float32))
            values = dict(zip(self._coder.features, values_NF.T, strict=True))
        error = block.columns.get(coding.ERROR)
        assert error is None or isinstance(error, np.ndarray)
        sums: dict[str, Any] = {"usable": int(usable_N.sum())}
        if error is not None:
            sums["squared_error"] = float(np.square(error[usable_N], dtype=np.float64).sum())
        return {**named_apart(block.columns, values), **values}, sums

    def _pixels(self, code_ND: FloatArray, usable_N: BoolArray) -> Array:
        """Return images in values of one byte; there is never more than a slice of them in eight."""
        # An image of which nothing is known is black.
        pixels_NF = np.zeros((len(code_ND), len(self._coder.features)), np.uint8)
        usable, at_once = np.flatnonzero(usable_N), max(1, _DECODED_VALUES // len(self._coder.features))
        for begin in range(0, len(usable), at_once):
            which = usable[begin : begin + at_once]
            decoded_BF = self._coder.decode(code_ND[which].astype(np.float32))
            pixels_NF[which] = np.rint(np.nan_to_num(decoded_BF).clip(0, 255))
        return pixels_NF

    def passed(self, block: Block) -> None:
        """Codes are read one by one: nothing is carried on."""
