"""Memory that state is copied into for a checkpoint: of its own, or of one that is used again and again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Memory = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""(name, shape, type) -> memory for an array, to be filled before the next one is asked for."""


def fresh(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return memory of its own for an array."""
    return np.empty(shape, dtype)


def copied(name: str, array: npt.NDArray[Any], memory: Memory) -> npt.NDArray[Any]:
    """Return an array in this memory."""
    copy = memory(name, array.shape, array.dtype)
    copy[...] = array
    return copy
