"""A view: one autoencoder over its own window and inputs, with its way from errors to a point's surprise.

The newest row of a window is judged: its squared errors, feature by feature, each measured by what is usual
for that feature, as logarithms; the largest few of them make the point's error. So one broken feature among
forty is seen, and so is one broken together with others.

Legend: B windows, N training windows, T window length, F features, C channels (F values, then F differences).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models import architectures
from models.calibration import PooledTail
from models.spec import ModelSpec

Inputs = Literal["values", "values and differences"]
LARGEST = 3
"""How many features' errors make a point's error."""


@dataclass(frozen=True)
class ViewConfig:
    """What a view is built from; it stands in the manifest."""

    architecture: str
    options: dict[str, Any]
    inputs: Inputs


class View(nn.Module):
    """Judges the newest row of each window."""

    step_F: Tensor
    usual_C: Tensor

    def __init__(self, spec: ModelSpec, config: ViewConfig) -> None:
        super().__init__()
        self.config = config
        self.features = len(spec.features)
        self.differences = config.inputs == "values and differences"
        channels = self.features * (2 if self.differences else 1)
        chosen = architectures.configure(config.architecture, config.options)
        self.network = architectures.build(config.architecture, (spec.window,), channels, chosen)
        self.register_buffer("step_F", torch.ones(self.features))
        self.register_buffer("usual_C", torch.ones(channels))
        self.tail: PooledTail | None = None

    def inputs(self, z_BTF: Tensor) -> Tensor:
        """Return x_BTC: the values, and their first differences in units of their own usual size."""
        if not self.differences:
            return z_BTF
        step_BTF = z_BTF.diff(dim=1, prepend=z_BTF[:, :1]) / self.step_F
        return torch.cat([z_BTF, step_BTF], dim=2)

    def errors(self, z_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Return (squared errors of the newest row e_BC, its reconstructed values expected_BF)."""
        x_BTC = self.inputs(z_BTF)
        rebuilt_BC = self.network.newest(x_BTC)
        return (x_BTC[:, -1] - rebuilt_BC).square(), rebuilt_BC[:, : self.features]

    def point_errors(self, e_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Return (error of each point, each feature's part in it as share_BF)."""
        strange_BC = torch.log1p(e_BC / self.usual_C)
        if self.differences:
            strange_BF = torch.maximum(strange_BC[:, : self.features], strange_BC[:, self.features :])
        else:
            strange_BF = strange_BC
        largest_BK = strange_BF.topk(min(LARGEST, self.features), dim=1).values
        share_BF = strange_BF / strange_BF.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return largest_BK.mean(dim=1), share_BF
