"""The plain autoencoder: dense layers down to a narrow code and back.

The code is too narrow to carry everything, so the network learns what the training data have in common and
reconstructs the rest badly (Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural
Networks", Science 2006). Use it for feature records and for short windows of few features: it is the fastest
of all, and hard to beat where there is little to learn from.

Legend: B batch, T steps, C channels, L latent.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import last_step


class Autoencoder(nn.Module):
    """Dense encoder and decoder over a flattened window."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 64
        """Width of the layer between input and code, on both sides."""
        latent: int = 8
        """Width of the code; always narrower than the input."""

    def __init__(self, steps: int, channels: int, config: Config) -> None:
        super().__init__()
        width = steps * channels
        latent = max(1, min(config.latent, width - 1))
        self.encoder = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))

    def encode(self, x_BTC: Tensor) -> Tensor:
        codes: Tensor = self.encoder(x_BTC.flatten(1))
        return codes

    def newest(self, x_BTC: Tensor) -> Tensor:
        return last_step(self.decoder, self.encode(x_BTC), x_BTC.shape[2])

    def forward(self, x_BTC: Tensor) -> Tensor:
        flat: Tensor = self.decoder(self.encode(x_BTC))
        return flat.view_as(x_BTC)
