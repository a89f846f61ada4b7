"""How far rows lie from the nearest of others: what tells a made-up row from a copy.

Legend: B rows, S rows they are compared with, D values of a row, F features, N windows.
"""

import numpy as np
import torch
from torch import Tensor

from models.arrays import FloatArray as FloatArray
from models.arrays import IntArray as IntArray

Span = tuple[IntArray, IntArray]
"""For each row, from which of the others on, and up to before which, they do not count."""
_CHUNK_VALUES, _CANDIDATES = 2**24, 4


def nearest(x_BD: Tensor, others_SD: Tensor, count: int, without: Span | None = None) -> Tensor:
    """Return which of the others are the nearest, in rising distance, nearest_BK; fewer where fewer count.

    The expanded square only picks them: its rounding would drown small distances.
    """
    chunk = max(1, _CHUNK_VALUES // max(len(others_SD), 1))
    square_S = others_SD.square().sum(dim=1)
    place_S = torch.arange(len(others_SD))
    found = []
    for begin in range(0, len(x_BD), chunk):
        order_BS = square_S - 2 * x_BD[begin : begin + chunk] @ others_SD.T
        if without is not None:
            first_B1, end_B1 = (torch.from_numpy(each[begin : begin + chunk, None]) for each in without)
            order_BS[(place_S >= first_B1) & (place_S < end_B1)] = torch.inf
        if count == 1:
            found.append(order_BS.argmin(dim=1, keepdim=True))
        else:
            found.append(order_BS.topk(min(count, len(others_SD)), dim=1, largest=False).indices)
    return torch.cat(found) if found else torch.zeros((0, count), dtype=torch.int64)


def distances(
    x_BD: FloatArray, others_SD: FloatArray, without: Span | None = None, candidates: int = _CANDIDATES
) -> FloatArray:
    """Return the distance of each row to the nearest of the others; zero only of equal ones.

    Args:
        candidates: of so many that rounding finds nearest, the nearest counts; 1 is a good deal faster.
    """
    x, others = (torch.from_numpy(np.ascontiguousarray(each, np.float64)) for each in (x_BD, others_SD))
    near_BK = nearest(x.float(), others.float(), candidates, without)
    apart_BK = torch.stack([(x - others[near_B]).square().sum(dim=1) for near_B in near_BK.T], dim=1)
    if without is not None:
        first_B1, end_B1 = (torch.from_numpy(each[:, None]) for each in without)
        # Where all others are left out, topk names some of them.
        apart_BK[(near_BK >= first_B1) & (near_BK < end_B1)] = torch.inf
    return np.asarray(apart_BK.amin(dim=1).sqrt().numpy(), np.float64)


def deviations(x_ND: FloatArray) -> FloatArray:
    """Return the standard deviation of each column, 1 of one that stands still: units to measure distances in."""
    std_D = x_ND.std(axis=0)
    return np.where(std_D > 0, std_D, 1.0)


def itself(count: int) -> Span:
    """Return what leaves each row itself out."""
    return np.arange(count), np.arange(count) + 1
