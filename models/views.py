"""A view: one autoencoder over its own window and inputs, and how strange its errors make a window.

One window length does not fit all anomalies, so a detector looks at a series in several ways. A view reconstructs
the newest `window` rows and reckons the error of each feature over the rows that it judges. Two measures turn those
into one number, a logarithm:

- `features`: each feature's error by what is usual for that feature, as logarithms, joined by a power mean. One
  broken feature among forty is seen, and so are many that are each a little off.
- `whole`: the plain mean of all errors. It has no limit, so a break without precedent stays ahead of everything.

A view may hold some of what it was trained on and add how far a window lies from it: see `nearest`.

Legend: B windows, T rows of a window, J judged rows, F features, C channels (F values, then F differences),
S stored windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from models import architectures
from models.images import OfImages
from models.nearest import Nearest
from models.scaling import LIMIT, compressed, expanded
from models.spec import ImageShape

Inputs = Literal["values", "values and differences", "centred", "compressed"]
Measure = Literal["features", "whole"]

DIFFERENCE_WEIGHT = 0.25
"""Size of a usual first difference beside values that range from 0 to 1."""
_LEAST = 1e-9


@dataclass(frozen=True)
class ViewConfig:
    """What a view is built from; it stands in the manifest."""

    architecture: str
    options: Mapping[str, Any]
    window: int
    """Rows that it sees."""
    inputs: Inputs = "values and differences"
    """centred: less the window's own mean, feature by feature, so that shapes count and levels do not.
    compressed: large values as logarithms, see `scaling.compressed`, so that no feature drowns the others."""
    judged: int = 3
    """The newest rows whose errors count."""
    measure: Measure = "features"
    largest: int = 0
    """Features that count, strangest first; 0 is all."""
    power: float = 1.0
    """Of the mean over features: 1 for what many show, higher for what few show."""
    softness: float = 3.0
    """Share of the median feature's usual error that is added to each one's own: quiet features count less."""
    fade: float | None = 0.1
    """How much of a window's error is lost for each row of distance, in logarithms; None is all. See `mapping`."""
    offset: float = 0.0
    """How far this view has to exceed the others to be heard, in logarithms."""
    stored: int = 0
    """Training windows that are kept to measure the distance from; 0: the error is that of reconstruction alone."""
    neighbour_share: float = 0.04
    """Which neighbour the distance is to: the k-th nearest, k being this share of the stored windows."""
    distance_weight: float = 0.7
    """Part that the distance has in the error, both as logarithms; the reconstruction has the rest."""

    def __post_init__(self) -> None:
        if not 1 <= self.judged <= self.window:
            raise ValueError(f"a view of {self.window} rows judges 1 to {self.window} of them, not {self.judged}")
        if self.stored < 0:
            raise ValueError(f"a view stores 0 windows or more, not {self.stored}")
        for share in ("neighbour_share", "distance_weight"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share} is a share from 0 to 1, not {getattr(self, share)}")
        for name, kinds in (("inputs", Inputs), ("measure", Measure)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} {getattr(self, name)!r} is none of: {', '.join(get_args(kinds))}")


@dataclass(frozen=True)
class Explanation:
    """What a view makes of each window, in scaled units."""

    expected_BF: Tensor
    """The newest row as reconstructed."""
    share_BF: Tensor
    """Each feature's part in the error; rows sum to one."""
    back_B: Tensor
    """How many rows before the newest one the error is largest."""


class View(nn.Module):
    """Reads windows that end in the row to judge."""

    step_F: Tensor
    usual_C: Tensor
    high_error: Tensor
    band_F: Tensor
    """How far a value may lie from the expected one, in scaled units, and still be as in training."""

    def __init__(self, features: int, config: ViewConfig, image: ImageShape | None = None) -> None:
        """`image`: of which the features are the values."""
        super().__init__()
        self.config = config
        self.features = features
        channels = features * (2 if self.differences else 1)
        chosen = architectures.configure(config.architecture, config.options)
        shape, depth = ((config.window,), channels) if image is None else (image[:2], image.channels)
        network = architectures.build(config.architecture, shape, depth, chosen)
        self.network = network if image is None else OfImages(network, image)
        self.register_buffer("step_F", torch.ones(features))
        self.register_buffer("usual_C", torch.ones(channels))
        self.register_buffer("band_F", torch.ones(features))
        self.register_buffer("high_error", torch.zeros(()))
        self.nearest = Nearest(config.stored, config.window * channels) if config.stored else None

    @property
    def differences(self) -> bool:
        return self.config.inputs == "values and differences"

    def inputs(self, z_BTF: Tensor, rows: int | None = None) -> Tensor:
        """Return what the network sees of the window's newest rows, x_BTC, or of that the newest `rows` alone."""
        rows = rows or self.config.window
        z_BTF = z_BTF[:, -self.config.window :]
        if self.config.inputs == "centred":
            # Copied first: windows overlap in memory, and arithmetic on such rows is slow.
            newest_BTF = z_BTF[:, -rows:].clone(memory_format=torch.contiguous_format)
            return newest_BTF.sub_(z_BTF.mean(dim=1, keepdim=True))
        newest_BTF = z_BTF[:, -rows:]
        if self.config.inputs == "compressed":
            return compressed(newest_BTF)
        if self.differences:
            before_BTF = z_BTF[:, -rows - 1 : -1]
            if rows == self.config.window:
                # The row before the window is taken to be like its first one.
                before_BTF = torch.cat([z_BTF[:, :1], z_BTF[:, :-1]], dim=1)
            return torch.cat([newest_BTF, (newest_BTF - before_BTF) / self.step_F], dim=2)
        return newest_BTF

    def squared_errors(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return (squared errors of the judged rows e_BJC, the newest row as reconstructed, newest_BC)."""
        rebuilt_BJC = self.network.newest(x_BTC, self.config.judged)
        return (x_BTC[:, -self.config.judged :] - rebuilt_BJC).square_(), rebuilt_BJC[:, -1]

    def explain(self, z_BTF: Tensor) -> Explanation:
        """Explain windows of at least `window` scaled rows, of which the newest count."""
        x_BTC = self.inputs(z_BTF)
        e_BJC, newest_BC = self.squared_errors(x_BTC)
        share_BF = _shares(self.measure(e_BJC.mean(dim=1))[1])
        if self.nearest is not None:
            weight, near_BF = self.config.distance_weight, _shares(self._apart(x_BTC) + _LEAST**2)
            # A window without an error is rebuilt no better in one feature than in another.
            share_BF = torch.where(share_BF.sum(dim=1, keepdim=True) > 0, share_BF, 1 / self.features)
            share_BF = (1 - weight) * share_BF + weight * near_BF
        back_B = self.config.judged - 1 - e_BJC.sum(dim=2).argmax(dim=1)
        return Explanation(self._expected(newest_BC, z_BTF, x_BTC), share_BF, back_B)

    def errors(self, z_BTF: Tensor) -> Tensor:
        """Return the logarithm of each window's error, by the one that a training row in a hundred exceeds."""
        x_BTC = self.inputs(z_BTF)
        error_B = self.measure(self.squared_errors(x_BTC)[0].mean(dim=1))[0]
        if self.nearest is not None:
            weight = self.config.distance_weight
            distance_B = (self._apart(x_BTC).sum(dim=1) + _LEAST).log() / 2
            error_B = (1 - weight) * error_B + weight * distance_B
        return error_B - self.high_error

    def off(self, z_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Return (each channel's mean squared error e_BC, how far newest values lie from the expected off_BF)."""
        x_BTC = self.inputs(z_BTF)
        e_BJC, newest_BC = self.squared_errors(x_BTC)
        return e_BJC.mean(dim=1), (z_BTF[:, -1] - self._expected(newest_BC, z_BTF, x_BTC)).abs()

    def _expected(self, newest_BC: Tensor, z_BTF: Tensor, x_BTC: Tensor) -> Tensor:
        """Return the newest row as reconstructed, in scaled units, expected_BF."""
        expected_BF = newest_BC[:, : self.features]
        if self.config.inputs == "centred":
            return expected_BF + (z_BTF[:, -1] - x_BTC[:, -1])
        if self.config.inputs == "compressed":
            return expanded(expected_BF).clamp(-LIMIT, LIMIT)
        return expected_BF

    def _apart(self, x_BTC: Tensor) -> Tensor:
        """Return the squared distance to the stored windows that each feature brings, apart_BF."""
        assert self.nearest is not None
        return self._of_features(self.nearest.squared(x_BTC.flatten(1), self.config.neighbour_share))

    def _of_features(self, part_BD: Tensor) -> Tensor:
        """Add up what belongs to each feature, over rows and over values and differences."""
        return part_BD.view(len(part_BD), -1, self.features).sum(dim=1)

    def measure(self, e_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logarithm of each window's error of reconstruction, what each feature adds to it, part_BF)."""
        config = self.config
        if config.measure == "whole":
            part_BF = self._of_features(e_BC)
            return log_of_sum(part_BF.sum(dim=1)), part_BF
        strange_BC = torch.log1p(e_BC / self.usual_C)
        part_BF = strange_BC.view(len(e_BC), -1, self.features).amax(dim=1).pow(config.power)
        count = min(config.largest or self.features, self.features)
        counted_BF = part_BF if count == self.features else part_BF.topk(count, dim=1).values
        return counted_BF.mean(dim=1).pow(1 / config.power).clamp(min=_LEAST).log(), part_BF

    def set_usual(self, high_C: Tensor, band_F: Tensor) -> None:
        """Take what is usual in training: high quantiles of each channel's error, and of how far values lie off."""
        self.usual_C.copy_((high_C + self.config.softness * high_C.median()).clamp(min=_LEAST))
        self.band_F.copy_(band_F)

    @torch.no_grad()
    def store(self, z_STF: Tensor) -> None:
        """Keep these windows to measure distances from; as many as the configuration says."""
        assert self.nearest is not None
        self.nearest.stored_SD.copy_(self.inputs(z_STF).flatten(1))


def log_of_sum(square_B: Tensor) -> Tensor:
    """Return the logarithm of the root of a squared error; of none, that of the least that is told apart."""
    return square_B.clamp(min=_LEAST**2).log() / 2


def _shares(part_BF: Tensor) -> Tensor:
    return part_BF / part_BF.sum(dim=1, keepdim=True).clamp(min=1e-30)
