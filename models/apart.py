"""How far rows lie from the nearest of others: what tells a made-up row from a copy.

Legend: B rows, S rows they are compared with, D values of a row, F features, N windows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray, IntArray

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


def distinct(x_NF: FloatArray) -> FloatArray:
    """Return the rows that differ, in rising order.

    As `np.unique` along an axis, which asks Python for the name of each value of a row. Here bytes are
    compared, which rise as the numbers do.
    """
    if x_NF.dtype == np.uint8:
        rising_NF: npt.NDArray[Any] = x_NF
    else:
        bits_NF = np.ascontiguousarray(x_NF + 0.0, np.float64).view(np.uint64)
        negative_NF = bits_NF >> np.uint64(63) == 1
        rising_NF = np.where(negative_NF, ~bits_NF, bits_NF | np.uint64(1 << 63)).astype(">u8")
    _, first_U = np.unique(_as_one(rising_NF), return_index=True)
    return x_NF[first_U]


def as_values(x_NF: FloatArray) -> npt.NDArray[np.void]:
    """Return rows as one value each, to be told from one another; zeros are of one sign."""
    return _as_one(x_NF if x_NF.dtype == np.uint8 else x_NF + 0.0)


def _as_one(x_NF: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    x_NF = np.ascontiguousarray(x_NF)
    return x_NF.view(np.dtype((np.void, x_NF.dtype.itemsize * x_NF.shape[1])))[:, 0]
