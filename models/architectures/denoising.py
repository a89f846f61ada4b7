"""The denoising autoencoder: a plain one that is shown damaged windows and asked for the whole ones.

It cannot learn to copy, so it learns how values depend on one another, and draws a strange window back to a
normal one (Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008).
Damage here is of two kinds: some values are swapped for those of another window, which looks real in any unit
and for features of few values, and all get a little noise. Use it where features depend on one another, where
the code need not be narrow, and where single values go missing.

Legend: B batch, T steps, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.architectures import squared_error, vanilla


class Autoencoder(vanilla.Autoencoder):
    """The dense autoencoder, trained to undo damage."""

    @dataclass(frozen=True)
    class Config(vanilla.Autoencoder.Config):
        latent: int = 16
        """Width of the code; it may be wider than the input."""
        swapped: float = 0.1
        """Share of the values that are taken from another window."""
        noise: float = 0.1
        """Standard deviation of the noise, in those of each channel."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__(shape, channels, config)
        self.swapped, self.noise = config.swapped, config.noise

    def code_width(self, wanted: int) -> int:
        return wanted

    def loss(self, x_BTC: Tensor, done: float) -> Tensor:
        return squared_error(self(self.damaged(x_BTC)), x_BTC)

    def loss_of(self, x_BTC: Tensor, own: slice, done: float) -> Tensor:
        return squared_error(self(self.damaged(x_BTC)[own]), x_BTC[own])

    def damaged(self, x_BTC: Tensor) -> Tensor:
        """Return the windows as training shows them."""
        spread_C = x_BTC.flatten(0, -2).std(dim=0, correction=0)
        noise_BTC = self.noise * spread_C * torch.randn_like(x_BTC)
        if not self.swapped:
            return x_BTC + noise_BTC
        other_BTC = x_BTC[torch.randperm(len(x_BTC), device=x_BTC.device)]
        return torch.where(torch.rand_like(x_BTC) < self.swapped, other_BTC, x_BTC) + noise_BTC
