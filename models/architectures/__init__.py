"""The architectures: one file each, found by the name of its module.

A module holds one class `Autoencoder(nn.Module)` with a nested frozen dataclass `Config`. It is built as
`Autoencoder(steps, channels, config)` and maps x_BTC to a reconstruction of the same shape; `encode` gives
its codes, one vector a window; `newest` gives the last step of the reconstruction alone, which is all that
scoring needs. Scaling, training, calibration and scoring are the same for all of them.
"""

import dataclasses
import difflib
import importlib
import math
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn


class Architecture(Protocol):
    """What every `Autoencoder` offers beside being a module."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the reconstruction, of the input's shape."""

    def encode(self, x_BTC: Tensor) -> Tensor:
        """Return the codes z_BL."""

    def newest(self, x_BTC: Tensor) -> Tensor:
        """Return the last step of the reconstruction, x_BC."""


def available() -> list[str]:
    """Return the names of all architectures."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


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
    """Return a dataclass of numbers with these options.

    A whole number counts something and is at least 1, unless its default is 0; any other is 0 or more.

    Raises:
        ValueError: one is no number of its kind.
    """
    for option, value in options.items():
        default = config.__dataclass_fields__[option].default
        whole = isinstance(default, int)
        least = 1 if whole and default else 0
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or not least <= value < math.inf:
            kind = "whole number" if whole else "number"
            raise ValueError(f"option {option!r} is {value!r}; it takes a {kind} of {least} or more")
    return config(**options)


def build(name: str, steps: int, channels: int, config: Any) -> nn.Module:
    """Return a new autoencoder for windows of `steps` x `channels`."""
    return cast(nn.Module, _class_of(name)(steps, channels, config))


def _class_of(name: str) -> Any:
    if name not in available():
        raise ValueError(f"there is no architecture {name!r}{_nearest(name, available())}")
    return importlib.import_module(f"{__name__}.{name}").Autoencoder


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
