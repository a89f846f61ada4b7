"""What to build: a configuration's model as views and training.

The default of series is three views of a linear autoencoder. `level` asks whether the last hour looks like an hour
of this series, `shape` whether it does when its mean is taken away, `moment` whether the newest rows follow from
what came before. A series of one feature shows less at a time, so its views look longer and forget more slowly. The
constants were chosen by the mean over all development series, so figures on these are optimistic:
`tests/benchmarks/results/README.md`.

The default of features is one view of a denoising autoencoder with a wide code, joined with the distance to stored
records. Its constants were chosen with eight tables of ADBench and handwritten digits in view: optimistic on these.

The default of images is one view of a convolutional autoencoder.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from models import architectures
from models.dataset import TooFewRows
from models.scaling import ScalingKind
from models.spec import Kind
from models.training import TrainingConfig
from models.views import ViewConfig

DEFAULT = "default"
_NETWORKS: Mapping[Kind, str] = {"series": "linear", "features": "denoising", "images": "convolutional"}
_SCALING: Mapping[Kind, ScalingKind] = {"series": "range", "features": "standard", "images": "standard"}
_WIDE = {"hidden": 128, "latent": 128, "swapped": 0.0, "noise": 0.3}
"""The denoising autoencoder of features."""
_STORED = 256
"""Records that the default of features measures distances from."""
_STEADY = {"epoch_windows": 12_800, "least_epoch_windows": 12_800}
"""Epochs of the default of features: 50 batches whatever the table, for small ones teach little in few batches."""
_OF_RECORDS = {
    "batch_windows": 256,
    "learning_rate": 2e-3,
    "max_epochs": 30,
    "patience": 10**9,
    "trimmed_from": 1 / 3,
}
"""Training of features: slower, and none ends early. Smaller batches were measured on series only."""
_IMAGES, _IMAGE_VALUES = 64, 2**21
"""Images of a batch, or of large ones as many as hold so many values: with what a convolution makes of them, and
their gradients, some 1.3 GiB. Of a batch of fewer than 20 none is trimmed."""
_JUDGED = 3
LEAST_WINDOW, LEAST_WINDOWS = 8, 100
"""Rows of the shortest window that the default falls back on, and windows that must lie whole within series: what
is learned and calibrated from fewer is not what comes after."""
_WHOLE_SHARE = 0.75
"""Rows at which a whole window ends, of all rows: of a window a quarter as long as a series there are four."""
_KEYS = {"architecture", "scaling", "window"}
"""What is said of a model beside the options of its network and of its training."""
_KEYS_OF_DEFAULT = {"architecture", "network", "scaling", "views"}


@dataclass(frozen=True)
class Plan:
    """Views, how values are scaled for them, and how to train them."""

    views: tuple[ViewConfig, ...]
    training: TrainingConfig
    scaling: ScalingKind
    adaptive: bool = False
    """Whether windows may be shortened for a short history; those that somebody wrote down are not."""

    @property
    def window(self) -> int:
        """Rows that the longest view sees."""
        return max(view.window for view in self.views)

    @property
    def least_window(self) -> int:
        """Rows that the shortest view sees at least."""
        shortest = min(view.window for view in self.views)
        return min(shortest, LEAST_WINDOW) if self.adaptive else shortest

    @property
    def least_rows(self) -> int:
        """Rows of one series that are needed at least."""
        return LEAST_WINDOWS + LEAST_WINDOW - 1 if self.adaptive else 2 * self.least_window

    def fitted_to(self, lengths: Sequence[int]) -> "Plan":
        """Return the plan for series of so many rows: no window is longer than they can fill often enough.

        Raises:
            TooFewRows: they are too short for the shortest window.
        """
        if not self.adaptive:
            return self
        if (whole := whole_windows(lengths, LEAST_WINDOW)) < LEAST_WINDOWS:
            raise TooFewRows(
                f"{sum(lengths):,} rows of {len(lengths)} series hold {whole} windows of {LEAST_WINDOW} rows; "
                f"training needs {LEAST_WINDOWS}"
            )
        wanted = max(LEAST_WINDOWS, _WHOLE_SHARE * sum(lengths))
        longer = range(LEAST_WINDOW + 1, self.window + 1)
        longest = max((w for w in longer if whole_windows(lengths, w) >= wanted), default=LEAST_WINDOW)
        return replace(self, views=tuple(_shortened(view, longest) for view in self.views))


def whole_windows(lengths: Sequence[int], window: int) -> int:
    """Return how many windows lie whole within series of these lengths."""
    return int(np.maximum(np.asarray(lengths) - window + 1, 0).sum())


def _shortened(view: ViewConfig, window: int) -> ViewConfig:
    window = min(view.window, window)
    judged = window if view.judged == view.window else min(view.judged, window)
    return replace(view, window=window, judged=judged)


def plan_of(
    kind: Kind,
    features: int,
    architecture: str,
    options: Mapping[str, Any],
    window: int | None = None,
    views: Sequence[Mapping[str, Any]] = (),
) -> Plan:
    """Return the plan of a configured model.

    Args:
        features: how many there are.
        architecture: `default`, or the name of one for a single view.
        options: of the architecture and of `TrainingConfig`, by name; `network` names another one for the views of
            the default, `scaling` another kind of `ScalingKind`.
        window: rows of a single view's window; the views of the default bring their own.
        views: keys of `ViewConfig` for each view, in place of the default's.

    Raises:
        ValueError: no such architecture or option; the text names the nearest one that there is.
    """
    training = {name: value for name, value in options.items() if name in TrainingConfig.__dataclass_fields__}
    own = {name: value for name, value in options.items() if name not in training}
    scaling = own.pop("scaling", _SCALING[kind])
    if scaling not in get_args(ScalingKind):
        raise ValueError(f"option 'scaling' is {scaling!r}; it takes one of: {', '.join(get_args(ScalingKind))}")
    if kind != "series":
        batch = {"batch_windows": max(1, min(_IMAGES, _IMAGE_VALUES // features))} if kind == "images" else {}
        training = {**_OF_RECORDS, **batch, **training}
    if architecture == DEFAULT:
        network = own.pop("network", _NETWORKS[kind])
        if not isinstance(network, str):
            raise ValueError(f"option 'network' is {network!r}; it takes the name of an architecture")
        if kind == "features":
            training = {**_STEADY, **training}
        if views:
            chosen = [_view(network, own, view) for view in views]
        else:
            chosen = _default_views(kind, features, network, own)
    else:
        chosen = [_single_view(kind, architecture, own, window or 32)]
    beside = {*TrainingConfig.__dataclass_fields__, *(_KEYS_OF_DEFAULT if architecture == DEFAULT else _KEYS)}
    return Plan(
        tuple(replace(view, options=_all_options(view, beside)) for view in chosen),
        architectures.checked(TrainingConfig, training),
        scaling,
        adaptive=architecture == DEFAULT and kind == "series" and not views,
    )


def _all_options(view: ViewConfig, beside: Collection[str]) -> dict[str, Any]:
    """Write every option out, so that a later default does not change what a saved model is built from."""
    return asdict(architectures.configure(view.architecture, view.options, beside))


def _view(network: str, options: Mapping[str, Any], keys: Mapping[str, Any]) -> ViewConfig:
    """Return a view of which some keys are said."""
    for key in keys:
        if key not in ViewConfig.__dataclass_fields__:
            raise ValueError(
                f"a view has no key {key!r}{architectures.nearest(key, ViewConfig.__dataclass_fields__)}"
            )
    judged = min(_JUDGED, keys["window"])
    return ViewConfig(**{"architecture": network, "options": options, "judged": judged, **keys})


def _single_view(kind: Kind, architecture: str, options: Mapping[str, Any], window: int) -> ViewConfig:
    if kind == "images":
        return _of_pixels(architecture, options)
    if kind == "features":
        return ViewConfig(architecture, options, 1, "values", judged=1, largest=3, softness=0.1, fade=None)
    return ViewConfig(architecture, options, window, judged=min(_JUDGED, window))


def _of_pixels(network: str, options: Mapping[str, Any]) -> ViewConfig:
    return ViewConfig(network, options, 1, "values", judged=1, measure="whole", fade=None)


def _default_views(kind: Kind, features: int, network: str, options: Mapping[str, Any]) -> list[ViewConfig]:
    if kind == "images":
        return [_of_pixels(network, options)]
    if kind == "features":
        wide = {**_WIDE, **options} if network == _NETWORKS[kind] else options
        return [ViewConfig(network, wide, 1, "compressed", judged=1, measure="whole", fade=None, stored=_STORED)]
    level = ViewConfig(network, options, 50, "values", judged=50, power=4, softness=0.1, fade=0.05, offset=0.4)
    shape = ViewConfig(network, options, 50, "centred", judged=50, measure="whole", fade=0.05, offset=0.8)
    moment = ViewConfig(network, options, 32, "values and differences", judged=_JUDGED, softness=3.0, fade=0.1)
    if features > 1:
        return [level, shape, moment]
    return [
        replace(level, fade=0.01, offset=0.0),
        replace(shape, window=128, judged=128, fade=0.01, offset=0.0),
        replace(moment, fade=0.02),
    ]
