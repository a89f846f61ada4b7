"""The linear autoencoder: principal components, found in closed form.

Of all autoencoders with one linear layer each way it is the optimum (Baldi and Hornik, "Neural Networks and
Principal Component Analysis: Learning from Examples Without Local Minima", 1989), so nothing is gained by creeping
towards it. It is solved by a randomised decomposition of the windows (Halko, Martinsson and Tropp, "Finding
Structure with Randomness", 2011), and once more without the windows it explains worst, as in trimmed least squares
(Rousseeuw, 1984), so that a few anomalies in training leave no trace. Use it first: it trains in a second and needs
few windows.

Legend: N windows, B batch, T steps, C channels, W width of a flat window, L latent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.architectures import Architecture

_OVERSAMPLING = 8
_ITERATIONS = 6
_TRIMMED = 0.01
_LEAST_WINDOWS = 100
"""Of fewer windows none is left out."""


class Autoencoder(Architecture):
    """Projection on the leading principal components and back."""

    @dataclass(frozen=True)
    class Config:
        latent: int = 16
        """Width of the code; always narrower than the input."""

    closed_form = True

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__()
        self.shape = (*shape, channels)
        width = math.prod(self.shape)
        latent = max(1, min(config.latent, width - 1))
        self.center_W = nn.Parameter(torch.zeros(width))
        self.components_WL = nn.Parameter(nn.init.orthogonal_(torch.empty(width, latent)))

    def encode(self, x_BTC: Tensor) -> Tensor:
        return (x_BTC.flatten(1) - self.center_W) @ self.components_WL

    def decode(self, z_BL: Tensor) -> Tensor:
        return (self.center_W + z_BL @ self.components_WL.T).view(-1, *self.shape)

    def newest(self, x_BTC: Tensor, rows: int) -> Tensor:
        width = rows * self.shape[-1]
        flat_BW = self.center_W[-width:] + self.encode(x_BTC) @ self.components_WL[-width:].T
        return flat_BW.view(-1, rows, self.shape[-1])

    @torch.no_grad()
    def solve(self, x_NTC: Tensor) -> None:
        self._solve(x_NTC.flatten(1))
        if len(x_NTC) >= _LEAST_WINDOWS:
            error_N = (self(x_NTC) - x_NTC).square().flatten(1).sum(1)
            kept = error_N.argsort(stable=True)[: len(x_NTC) - int(_TRIMMED * len(x_NTC))]
            self._solve(x_NTC.flatten(1)[kept.sort().values])

    def _solve(self, x_NW: Tensor) -> None:
        center_W = x_NW.mean(0)
        latent = self.components_WL.shape[1]
        rank = min(latent + _OVERSAMPLING, *x_NW.shape)
        found_WL = torch.svd_lowrank(x_NW - center_W, rank, niter=_ITERATIONS)[2][:, :latent]
        self.center_W.copy_(center_W)
        # Fewer windows than codes: the codes that are left over stand for nothing.
        self.components_WL.zero_()
        self.components_WL[:, : found_WL.shape[1]] = found_WL
