"""Neighbouring numbers of a tensor, read from many places at once."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import IntArray


def slices(track: Tensor, start_B: Tensor, length: int) -> Tensor:
    """Return so many neighbouring numbers from each of these places of a track, [B, length]."""
    flat = track.view(-1)
    every = flat.as_strided((len(flat) - length + 1, length), (1, 1))
    return every.index_select(0, start_B)


def copy_slices(track: Tensor, start_S: IntArray, out: npt.NDArray[Any]) -> None:
    """Copy neighbouring numbers of a track from each of these places to the rows of `out`."""
    if not len(start_S):
        return
    length = int(np.prod(out.shape[1:], dtype=np.int64))
    flat = torch.from_numpy(out).view(len(start_S), length)
    start = torch.from_numpy(start_S).to(track.device)
    if track.device.type == "cpu":
        every = track.view(-1)
        every = every.as_strided((len(every) - length + 1, length), (1, 1))
        torch.index_select(every, 0, start, out=flat)
    else:
        flat.copy_(slices(track, start, length))
