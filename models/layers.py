"""Blocks that two or more architectures use.

Legend: B batch, T steps, C channels, L latent.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from models.architectures import Architecture


def dense(*widths: int) -> nn.Sequential:
    """Return dense layers of these widths, with a smooth bend between any two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class DenseDecoder(Architecture):
    """An architecture whose `decoder` is dense and ends in one layer over all steps."""

    decoder: nn.Sequential

    def __init__(self, shape: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.shape = (*shape, channels)
        self.width = math.prod(self.shape)

    def decode(self, z_BL: Tensor) -> Tensor:
        flat: Tensor = self.decoder(z_BL)
        return flat.view(-1, *self.shape)

    @property
    def writes(self) -> nn.Linear:
        """The decoder's last layer."""
        layer = self.decoder[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def newest(self, x_BTC: Tensor, rows: int) -> Tensor:
        """Return the last rows of the reconstruction, without reckoning the others."""
        width = rows * self.shape[-1]
        hidden = self.decoder[:-1](self.encode(x_BTC))
        flat = nn.functional.linear(hidden, self.writes.weight[-width:], self.writes.bias[-width:])
        return flat.view(-1, rows, self.shape[-1])
