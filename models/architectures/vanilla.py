"""The plain autoencoder: dense layers down to a narrow code and back.

The code is too narrow to carry everything, so the network learns what the training data have in common and
reconstructs the rest badly (Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural
Networks", Science 2006). Use it for feature records and for short windows of few features: it is the fastest
of all, and hard to beat where there is little to learn from.

Legend: B batch, T steps, C channels, L latent.
"""

from dataclasses import dataclass

from torch import Tensor

from models.layers import DenseDecoder, dense


class Autoencoder(DenseDecoder):
    """Dense encoder and decoder over a flattened window."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 64
        """Width of the layer between input and code, on both sides."""
        latent: int = 8
        """Width of the code; always narrower than the input."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__(shape, channels)
        latent = self.code_width(config.latent)
        self.encoder = dense(self.width, config.hidden, latent)
        self.decoder = dense(latent, config.hidden, self.width)

    def code_width(self, wanted: int) -> int:
        """Return the width of the code: one as wide as the input could carry everything."""
        return max(1, min(wanted, self.width - 1))

    def encode(self, x_BTC: Tensor) -> Tensor:
        codes: Tensor = self.encoder(x_BTC.flatten(1))
        return codes
