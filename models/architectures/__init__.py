"""The architectures: one file each, found by the name of its module.

A module holds one class `Autoencoder(Architecture)` with a nested frozen dataclass `Config`, whose options all
have a default. It is built as `Autoencoder(shape, channels, config)`, where the shape is that of one window:
(T,) for series, (1,) for records of features, (height, width) for images. Scaling, training, calibration and
scoring are the same for all of them. Other distributions add their own under the entry point group
`offkey.architectures`, by the name under which they are configured.

Legend: B batch, T steps (or the axes of an image), C channels, L latent.
"""

import dataclasses
import difflib
import importlib
import math
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

from torch import Tensor, nn

ENTRY_POINTS = "offkey.architectures"
WARM_UP = 1 / 3
"""Share of a training after which a loss must have its final form."""


class Architecture(nn.Module):
    """An autoencoder: from windows to codes and back."""

    Config: type[Any]

    @abstractmethod
    def encode(self, x_BTC: Tensor) -> Tensor:
        """Return the codes z_BL."""

    @abstractmethod
    def decode(self, z_BL: Tensor) -> Tensor:
        """Return the windows x_BTC that the codes stand for."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the reconstruction, of the input's shape."""
        return self.decode(self.encode(x_BTC))

    def newest(self, x_BTC: Tensor, rows: int) -> Tensor:
        """Return the newest `rows` steps of the reconstruction alone: what a view needs that judges no others."""
        last: Tensor = self(x_BTC)[:, -rows:]
        return last

    def loss(self, x_BTC: Tensor, done: float) -> Tensor:
        """Return what training makes small, for each window by itself: loss_B.

        Training leaves out the windows of largest loss, see `training.trimmed_mean`: what a window costs stands in
        its own entry. A term of the batch as a whole is added to every entry alike: their order stays as it is.

        Args:
            done: the share of the training that has passed.
        """
        return squared_error(self(x_BTC), x_BTC)

    closed_form = False
    """The optimum is reckoned by `solve`; nothing is left for gradients to do."""

    def solve(self, x_BTC: Tensor) -> None:
        """Take the weights that reconstruct these windows best."""
        raise NotImplementedError(f"{type(self).__module__} has no closed form")


def squared_error(rebuilt_BTC: Tensor, x_BTC: Tensor) -> Tensor:
    """Return each window's mean squared error, of shape [B]."""
    return (rebuilt_BTC - x_BTC).square().flatten(1).mean(dim=1)


def available() -> list[str]:
    """Return the names of all architectures."""
    return sorted({*_own(), *_added()})


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """Return the architecture's Config with these options.

    Raises:
        ValueError: no such architecture or option; the text names the nearest one that there is.
    """
    fields = {field.name for field in dataclasses.fields(_class_of(name).Config)}
    for option in options:
        if option not in fields:
            raise ValueError(f"architecture {name} has no option {option!r}{_nearest(option, fields)}")
    return checked(_class_of(name).Config, options)


def checked(config: Any, options: Mapping[str, Any]) -> Any:
    """Return a dataclass of numbers and choices with these options.

    A whole number counts something and is at least 1, unless its default is 0; any other is 0 or more. A choice is
    a `Literal` of words.

    Raises:
        ValueError: one is no number of its kind, or none of the words.
    """
    for option, value in options.items():
        default = config.__dataclass_fields__[option].default
        if isinstance(default, str):
            words = get_args(config.__dataclass_fields__[option].type)
            if value not in words:
                raise ValueError(f"option {option!r} is {value!r}; it takes one of: {', '.join(words)}")
            continue
        whole = isinstance(default, int)
        least = 1 if whole and default else 0
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or not least <= value < math.inf:
            kind = "whole number" if whole else "number"
            raise ValueError(f"option {option!r} is {value!r}; it takes a {kind} of {least} or more")
    return config(**options)


def build(name: str, shape: tuple[int, ...], channels: int, config: Any) -> Architecture:
    """Return a new autoencoder for windows of this shape.

    Raises:
        ValueError: it does not take windows of this shape.
    """
    network: Architecture = _class_of(name)(shape, channels, config)
    return network


def _own() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _class_of(name: str) -> Any:
    if name in _own():
        return importlib.import_module(f"{__name__}.{name}").Autoencoder
    added = _added()
    if name not in added:
        raise ValueError(f"there is no architecture {name!r}{_nearest(name, available())}")
    return added[name].load()


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
