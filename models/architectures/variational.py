"""The variational autoencoder: codes are distributions, and every code near them decodes to something normal.

Training maximises a lower bound of the likelihood (Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR
2014): a normal likelihood whose spread is learned for each channel (Rybkin et al., "Simple and Effective VAE
Training with Calibrated Decoders", ICML 2021), less the distance of the codes from a standard normal, which
grows from nothing over the first third of the training lest the codes collapse. It is scored by the
reconstruction from the mean code: errors of drawn codes, be they one or many, find less on measured series
(`tests/benchmarks/results/README.md`) and differ from time to time. Use it to generate, and where training data
are few or dirty.

Legend: B batch, T steps, C channels, L latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.architectures import WARM_UP
from models.layers import DenseDecoder, dense

_LIMIT = 6.0
"""Bound of every log of a spread."""


class Autoencoder(DenseDecoder):
    """Dense encoder to means and spreads, dense decoder."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 64
        """Width of the layer between input and code, on both sides."""
        latent: int = 8
        """Width of the code."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__(shape, channels)
        self.latent = config.latent
        self.encoder = dense(self.width, config.hidden, 2 * config.latent)
        self.decoder = dense(config.latent, config.hidden, self.width)
        self.log_spread_C = nn.Parameter(torch.zeros(channels))

    def encode(self, x_BTC: Tensor) -> Tensor:
        """Return the means of the codes' distributions."""
        return self._distribution(x_BTC)[0]

    def loss(self, x_BTC: Tensor, done: float) -> Tensor:
        return self.loss_of(x_BTC, slice(None), done)

    def loss_of(self, x_BTC: Tensor, own: slice, done: float) -> Tensor:
        count, x_BTC = len(x_BTC), x_BTC[own]
        mean_BL, log_spread_BL = self._distribution(x_BTC)
        drawn_BL = torch.randn(count, self.latent, dtype=mean_BL.dtype, device=mean_BL.device)[own]
        rebuilt_BTC = self.decode(mean_BL + log_spread_BL.exp() * drawn_BL)
        log_spread_C = self.log_spread_C.clamp(-_LIMIT, _LIMIT)
        surprise_BTC = ((x_BTC - rebuilt_BTC) / log_spread_C.exp()).square() / 2 + log_spread_C
        distance_BL = (mean_BL.square() + (2 * log_spread_BL).exp() - 1) / 2 - log_spread_BL
        share = min(done / WARM_UP, 1.0)
        return (surprise_BTC.flatten(1).sum(1) + share * distance_BL.sum(1)) / self.width

    def sample(self, count: int) -> Tensor:
        """Return new windows x_BTC, drawn from the model by torch's generator."""
        z_BL = torch.randn(count, self.latent, device=self.log_spread_C.device)
        x_BTC = self.decode(z_BL)
        return x_BTC + self.log_spread_C.clamp(-_LIMIT, _LIMIT).exp() * torch.randn_like(x_BTC)

    def _distribution(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        mean_BL, log_spread_BL = self.encoder(x_BTC.flatten(1)).chunk(2, dim=1)
        return mean_BL, log_spread_BL.clamp(-_LIMIT, _LIMIT)
