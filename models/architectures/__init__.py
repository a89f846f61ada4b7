"""The architectures: one file each, found by the name of its module.

A module holds one class `Autoencoder(Architecture)` with a nested frozen dataclass `Config`, whose options all
have a default: a number, true or false, or a text. It is built as `Autoencoder(shape, channels, config)`, where the
shape is that of one window: (T,) for series, (1,) for records of features, (height, width) for images. Scaling,
training, calibration and scoring are the same for all of them. Other distributions add their own under the entry
point group `offkey.architectures`, by the name under which they are configured.

Legend: B batch, T steps (or the axes of an image), C channels, L latent.
"""

import dataclasses
import difflib
import functools
import importlib
import math
import pkgutil
from abc import abstractmethod
from collections.abc import Collection, Mapping
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

    def loss_of(self, x_BTC: Tensor, own: slice, done: float) -> Tensor:
        """Return the losses of some windows of a batch, `own`, as `loss` has them for the whole batch.

        Several processes share a batch so. An architecture whose loss draws random numbers, or looks at the whole
        batch, says here how: each process draws all that one would, for the next draws have to be the same ones.
        """
        return self.loss(x_BTC[own], done)

    closed_form = False
    """The optimum is reckoned by `solve`; nothing is left for gradients to do."""

    def solve(self, x_BTC: Tensor) -> None:
        """Take the weights that reconstruct these windows best."""
        raise NotImplementedError(f"{type(self).__module__} has no closed form")

    starts = False
    """Training begins with the weights of `start`, and ends with nothing worse on held-out windows."""

    def start(self, x_BTC: Tensor) -> None:
        """Take the weights that training on these windows begins with."""
        raise NotImplementedError(f"{type(self).__module__} begins with what it was built with")


def squared_error(rebuilt_BTC: Tensor, x_BTC: Tensor) -> Tensor:
    """Return each window's mean squared error, of shape [B]."""
    return (rebuilt_BTC - x_BTC).square().flatten(1).mean(dim=1)


def available() -> list[str]:
    """Return the names of all architectures."""
    return sorted({*_own(), *_added()})


def configure(name: str, options: Mapping[str, Any], beside: Collection[str] = ()) -> Any:
    """Return the architecture's Config with these options.

    Args:
        beside: other names that may be written where the options are, and may have been meant by an unknown one.

    Raises:
        ValueError: no such architecture or option; the text names the nearest one that there is.
    """
    config = _class_of(name).Config
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    for option, default in fields.items():
        if not isinstance(default, bool | int | float | str):
            raise ValueError(
                f"architecture {name}: the default of option {option!r} is no number, truth value or text, so it "
                "cannot be configured or saved; give its Config such a one"
            )
    for option in options:
        if option not in fields:
            raise ValueError(
                f"architecture {name} has no option {option!r}{nearest(option, {*fields, *beside} - {option})}"
            )
    return checked(config, options)


def checked(config: Any, options: Mapping[str, Any]) -> Any:
    """Return a dataclass of numbers, truth values and texts with these options, each of its default's type.

    A whole number counts something and is at least 1, unless its default is 0; any other is 0 or more. A text whose
    field is a `Literal` is one of its words.

    Raises:
        ValueError: one is not of its kind.
    """
    for option, value in options.items():
        field = config.__dataclass_fields__[option]
        if said := _misfit(field.default, value, get_args(field.type)):
            raise ValueError(f"option {option!r} is {value!r}; it takes {said}")
    return config(**options)


def _misfit(default: Any, value: Any, words: tuple[Any, ...]) -> str | None:
    """Return what an option of this default takes instead of a value; None where the value will do."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, str) and words:
        return None if value in words else f"one of: {', '.join(words)}"
    if isinstance(default, str):
        return None if isinstance(value, str) else "text: put quotes around it"
    whole = isinstance(default, int)
    least = 1 if whole and default else 0
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if right and least <= value < math.inf:
        return None
    return f"a {'whole number' if whole else 'number'} of {least} or more"


def build(name: str, shape: tuple[int, ...], channels: int, config: Any) -> Architecture:
    """Return a new autoencoder for windows of this shape.

    Raises:
        ValueError: it does not take windows of this shape.
    """
    network: Architecture = _class_of(name)(shape, channels, config)
    return network


def nearest(word: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or all where none is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"


def distribution_of(name: str) -> tuple[str, str] | None:
    """Return (name, version) of the distribution that adds an architecture; None for one of our own."""
    added = None if name in _own() else _added().get(name)
    return None if added is None or added.dist is None else (added.dist.name, added.dist.version)


@functools.cache
def _own() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__))


def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _class_of(name: str) -> Any:
    if name in _own():
        return importlib.import_module(f"{__name__}.{name}").Autoencoder
    added = _added()
    if name not in added:
        raise ValueError(f"there is no architecture {name!r}{nearest(name, available())}")
    return _loaded(added[name])


def _loaded(point: EntryPoint) -> type[Architecture]:
    """Return the class that another distribution adds.

    Raises:
        ValueError: it cannot be imported, or is no architecture; the text names the distribution.
    """
    whose = f"architecture {point.name!r} of {point.dist.name} {point.dist.version}" if point.dist else point.name
    try:
        found = point.load()
    except Exception as error:
        # Its module may do anything at import; what went wrong stays the cause.
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{whose} cannot be loaded ({why}); install what it needs, or another version") from error
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        raise ValueError(
            f"{whose}: {point.value} is no subclass of {__name__}.Architecture; install another version"
        )
    return found
