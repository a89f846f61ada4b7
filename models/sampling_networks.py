"""The networks that samples are drawn with: one that was trained for it, or one that was trained to detect.

Both read normal scores (`marginals`) and write them; that of a detector sees the scaled values behind them.

Legend: B windows or records, T steps of a window, F features, L latent.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.arrays import FloatArray
from models.detector import Detector
from models.marginals import Marginals, OfPixels
from models.scaling import LIMIT, expanded
from models.views import View

SAMPLES = "variational"
"""The architecture that is trained for the purpose, and what others are asked to be."""


class Trained:
    """The network that was trained on scores."""

    def __init__(self, view: View) -> None:
        self._view, self.window = view, view.config.window

    def encode(self, y_BTF: Tensor) -> Tensor:
        return self._view.network.encode(y_BTF)

    def decode(self, z_BL: Tensor) -> Tensor:
        return self._view.network.decode(z_BL)


class Given:
    """A view of a detector, which reads scaled values."""

    def __init__(self, view: View, marginals: Marginals | OfPixels) -> None:
        self._view, self._marginals, self.window = view, marginals, view.config.window

    def encode(self, y_BTF: Tensor) -> Tensor:
        z_BTF = _flatly(y_BTF, self._marginals.values).float()
        return self._view.network.encode(self._view.inputs(z_BTF.clamp(-LIMIT, LIMIT)))

    def decode(self, z_BL: Tensor) -> Tensor:
        x_BTF = self._view.network.decode(z_BL)[:, :, : self._view.features]
        if self._view.config.inputs == "compressed":
            x_BTF = expanded(x_BTF)
        return _flatly(x_BTF, self._marginals.scores).float()


def sampling_view(detector: Detector, name: str) -> View:
    """Return the view of a detector that samples.

    Raises:
        ValueError: none does; the text says which model to train.
    """
    for view in detector.views:
        if view.config.architecture == SAMPLES and view.config.inputs != "centred":
            return view
    raise ValueError(
        f"{name}: a {detector.name} model cannot sample; leave it out, and a {SAMPLES} one is trained for the "
        f"purpose, or train the stream with `model: {{architecture: {SAMPLES}}}`"
    )


def flat(y_BTF: Tensor) -> FloatArray:
    """Return rows of windows below each other."""
    return np.asarray(y_BTF.reshape(-1, y_BTF.shape[2]).numpy(), np.float64)


def _flatly(y_BTF: Tensor, of_rows: Callable[[FloatArray], FloatArray]) -> Tensor:
    """Return windows with their rows made into others."""
    return torch.from_numpy(of_rows(flat(y_BTF))).reshape(y_BTF.shape)
