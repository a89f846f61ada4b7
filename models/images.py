"""Any architecture as one that reads images laid out as rows of values, as all around it does.

Scaling, training, calibration and scoring see an image as one row of F values. The network sees its two axes.

Legend: B batch, H height, W width, C channels, F = H * W * C values, L latent.
"""

from torch import Tensor

from models.architectures import Architecture
from models.spec import ImageShape


class OfImages(Architecture):
    """Takes x_B1F, and shows the network x_BHWC."""

    def __init__(self, network: Architecture, shape: ImageShape) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.closed_form, self.starts = network.closed_form, network.starts

    def encode(self, x_B1F: Tensor) -> Tensor:
        return self.network.encode(self._images(x_B1F))

    def decode(self, z_BL: Tensor) -> Tensor:
        return _rows(self.network.decode(z_BL))

    def forward(self, x_B1F: Tensor) -> Tensor:
        rebuilt_BHWC: Tensor = self.network(self._images(x_B1F))
        return _rows(rebuilt_BHWC)

    def loss(self, x_B1F: Tensor, done: float) -> Tensor:
        return self.network.loss(self._images(x_B1F), done)

    def loss_of(self, x_B1F: Tensor, own: slice, done: float) -> Tensor:
        return self.network.loss_of(self._images(x_B1F), own, done)

    def solve(self, x_B1F: Tensor) -> None:
        self.network.solve(self._images(x_B1F))

    def start(self, x_B1F: Tensor) -> None:
        self.network.start(self._images(x_B1F))

    def _images(self, x_B1F: Tensor) -> Tensor:
        return x_B1F.reshape(len(x_B1F), *self.shape)


def _rows(x_BHWC: Tensor) -> Tensor:
    return x_BHWC.flatten(1)[:, None]
