"""The sparse autoencoder: a code wider than it needs to be, of which each window may use only a little.

Each unit of the code comes to stand for one thing that happens in the data, so codes can be read and make good
features (Olshausen and Field, "Emergence of Simple-Cell Receptive Field Properties by Learning a Sparse Code",
Nature 1996; Ng, "Sparse Autoencoder", 2011). The penalty is the sum of the active units, each by the length of
what it writes: without the length, small codes and large weights would cheat it. Use it where data are a mix of
many patterns of which few are there at a time, and for features that a person is to read.

Legend: B batch, T steps, C channels, L latent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.architectures import squared_error
from models.layers import DenseDecoder, dense


class Autoencoder(DenseDecoder):
    """Dense encoder with a hidden layer, rectified code, linear decoder."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 64
        """Width of the layer between input and code."""
        latent: int = 64
        """Units of the code, more than are active at a time."""
        sparsity: float = 0.05
        """Weight of the penalty beside the squared error."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__(shape, channels)
        self.sparsity = config.sparsity
        self.encoder = dense(self.width, config.hidden, config.latent)
        self.decoder = dense(config.latent, self.width)

    def encode(self, x_BTC: Tensor) -> Tensor:
        return torch.relu(self.encoder(x_BTC.flatten(1)))

    def loss(self, x_BTC: Tensor, done: float) -> Tensor:
        z_BL = self.encode(x_BTC)
        written_L = self.writes.weight.norm(dim=0)
        penalty_B: Tensor = (z_BL * written_L).sum(dim=1) / math.sqrt(self.width)
        return squared_error(self.decode(z_BL), x_BTC) + self.sparsity * penalty_B
