"""The convolutional autoencoder: small patterns wherever they stand, joined step by step to a code.

Weights are shared over the positions of a window or an image, so it needs few of them and does not care where in
a window a shape begins (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; Masci et
al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011). The way back repeats
values and convolves, which leaves no chequerboard (Odena et al., "Deconvolution and Checkerboard Artifacts",
2016). Use it for images, and for long windows with local shapes.

Legend: B batch, T steps (or the axes of an image), C channels, L latent.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from models.architectures import Architecture


class Autoencoder(Architecture):
    """Two convolutions that halve the window each, a dense code, and the same way back."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 32
        """Channels between the convolutions."""
        latent: int = 16
        """Width of the code."""
        kernel: int = 5
        """Points that a convolution sees on each axis; odd."""

        def __post_init__(self) -> None:
            if self.kernel % 2 == 0:
                raise ValueError(f"option 'kernel' is {self.kernel}; it takes an odd number")

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__()
        convolution: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if len(shape) == 1 else nn.Conv2d
        hidden, kernel, padding = config.hidden, config.kernel, config.kernel // 2
        half = tuple(-(-side // 2) for side in shape)
        quarter = tuple(-(-side // 2) for side in half)
        # On its way the channels stand before the axes, as convolutions want them.
        flat = hidden * math.prod(quarter)
        self.encoder = nn.Sequential(
            convolution(channels, hidden, kernel, 2, padding),
            nn.GELU(),
            convolution(hidden, hidden, kernel, 2, padding),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(flat, config.latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, flat),
            nn.GELU(),
            nn.Unflatten(1, (hidden, *quarter)),
            nn.Upsample(half),
            convolution(hidden, hidden, kernel, 1, padding),
            nn.GELU(),
            nn.Upsample(shape),
            convolution(hidden, channels, kernel, 1, padding),
        )

    def encode(self, x_BTC: Tensor) -> Tensor:
        codes: Tensor = self.encoder(x_BTC.movedim(-1, 1))
        return codes

    def decode(self, z_BL: Tensor) -> Tensor:
        rebuilt: Tensor = self.decoder(z_BL)
        return rebuilt.movedim(1, -1)
