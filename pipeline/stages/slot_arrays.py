"""Arrays of one row a slot that grow without lying in memory twice.

A million series may come one after another. Doubling would leave half of the memory unused, and a copy of the rings
would need it twice for a moment: an array grows by a sixteenth, and on the host where it lies, by the system's own
moving of pages. On another device each array is copied by itself, so no more than the largest is there twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class SlotArray:
    """`rows`, a tensor of one row of this shape a slot. It is another one after `grow`: do not keep it."""

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike, empty: float, device: torch.device) -> None:
        self._empty = empty
        self._device = device
        self._base: npt.NDArray[Any] = np.zeros((0, *shape), dtype)
        self.rows: Tensor = torch.from_numpy(self._base).to(device)

    def grow(self, slots: int) -> None:
        """Have rows for so many slots; new ones are empty."""
        before = len(self.rows)
        if slots <= before:
            return
        if self._device.type == "cpu":
            # No tensor may look into memory that moves.
            self.rows = torch.zeros(0)
            self._base.resize((slots, *self._base.shape[1:]), refcheck=False)
            self._base[before:] = self._empty
            self.rows = torch.from_numpy(self._base)
        else:
            new = self.rows.new_full((slots - before, *self.rows.shape[1:]), self._empty)
            self.rows = torch.cat([self.rows, new])
