"""How far records lie from stored ones: a distance beside the reconstruction error.

An autoencoder reconstructs what lies between and beyond its training records as well as these, and the more so the
wider its code. The distance to the k-th nearest of a few stored records knows nothing of how features depend on
one another, but sees what is far from everything. Each finds what the other misses (Ramaswamy et al., "Efficient
Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000, for the distance).

A few stored records, drawn at random, do nearly as well as all of them, and cost the same for every record whatever
the size of the training set. The k-th nearest, not the first: a few anomalies among the stored ones do no harm.

Legend: B records, S stored ones, D values of a record.
"""

import torch
from torch import Tensor, nn


class Nearest(nn.Module):
    """Stored records, and which of them is the k-th nearest."""

    stored_SD: Tensor

    def __init__(self, stored: int, values: int) -> None:
        super().__init__()
        self.register_buffer("stored_SD", torch.zeros(stored, values))

    def squared(self, x_BD: Tensor, share: float, besides: int = 0) -> Tensor:
        """Return what each value adds to the squared distance to the k-th nearest stored record, [B, D].

        The expanded square only picks the neighbour: it is one matrix product, and its rounding would drown the
        distances of records that are nearly equal. These are reckoned from the differences.

        Args:
            share: k is this share of the stored records, at least 1.
            besides: so many of the nearest do not count.
        """
        k = min(max(1, round(share * len(self.stored_SD))) + besides, len(self.stored_SD))
        # The record's own square is the same for all of the stored ones.
        order_BS = self.stored_SD.square().sum(dim=1) - 2 * x_BD @ self.stored_SD.T
        kth_B = order_BS.topk(k, dim=1, largest=False).indices[:, -1]
        return (x_BD - self.stored_SD[kth_B]).square_()
