"""What simple numbers say of each row's window: a baseline beside codes, and what codes leave out.

Legend: N rows, B rows of a chunk, T window length, F features.
"""

from collections.abc import Sequence

import numpy as np

from models.arrays import FloatArray

STATISTICS = ("mean", "std", "min", "max", "slope")
_CHUNK_VALUES = 2**20


def statistic_names(features: Sequence[str]) -> list[str]:
    """Return the names of the columns of `window_statistics`: `mean_cpu` and so on."""
    return [f"{statistic}_{feature}" for statistic in STATISTICS for feature in features]


def window_statistics(x_NF: FloatArray, window: int) -> FloatArray:
    """Return mean, standard deviation, least and largest value, and slope of each feature in each row's window.

    A window is the row and those before it; the series is taken to have stood still before its first row. The slope
    is that of the line with the least squared error, in units of the feature by row.

    Raises:
        ValueError: the window has one row, of which there is nothing to say.
    """
    if window < 2:
        raise ValueError(f"statistics are of windows of 2 rows or more, not {window}")
    rows_RF = np.concatenate([np.repeat(x_NF[:1], window - 1, axis=0), x_NF])
    centred_T = np.arange(window) - (window - 1) / 2
    weights_T = centred_T / np.square(centred_T).sum()
    found_NS = np.empty((len(x_NF), len(STATISTICS) * x_NF.shape[1]))
    chunk = max(1, _CHUNK_VALUES // (window * x_NF.shape[1]))
    for begin in range(0, len(x_NF), chunk):
        part_RF = rows_RF[begin : begin + chunk + window - 1]
        w_BFT = np.lib.stride_tricks.sliding_window_view(part_RF, window, axis=0)
        # Of differences from the newest value: a large level would drown a small slope.
        each = [w_BFT.mean(2), w_BFT.std(2), w_BFT.min(2), w_BFT.max(2), (w_BFT - w_BFT[..., -1:]) @ weights_T]
        found_NS[begin : begin + chunk] = np.concatenate(each, axis=1)
    return found_NS
