"""From rows to a generator of rows that look like them: scales, ranks, a network, and how wide samples are drawn.

What a variational autoencoder reads are normal scores (`marginals`): values scaled for each series, then by their
ranks. It is trained for the purpose, on the rows themselves; or it is one that was trained to detect, which reads
the scaled values.

Images are records of as many values as they have pixels; of large ones all pixels share one spread, their grid is
that of a byte, and distances are told with all pixels alike. The network is dense, for what is drawn is not what it
decodes alone: edges and texture come with the residuals of images that look alike.

Legend: N rows or windows, R rows of a series, B windows of a chunk, T steps of a window, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.apart import as_values, deviations, distances, distinct, itself
from models.arrays import FloatArray, IntArray
from models.dataset import Windows
from models.detector import Detector
from models.fitting import one_thread
from models.generator import Generator
from models.grid import Grid, grids_of
from models.marginals import Marginals, OfPixels
from models.plan import DEFAULT, plan_of
from models.sampling import Network, Sampler
from models.sampling_networks import SAMPLES, Given, Trained, flat, sampling_view
from models.scaling import fit_features, fit_images, fit_series
from models.spec import ImageShape, Kind, ModelSpec
from models.training import train
from models.views import View

Pieces = Mapping[str, Sequence[FloatArray]]
"""Of each series stretches of finite rows that follow each other; of records one entry."""
_LEARNING: Mapping[str, Any] = {
    "network": SAMPLES,
    "hidden": 128,
    "trimmed": 0.0,
    "max_epochs": 30,
    "epoch_windows": 12_800,
    "least_epoch_windows": 12_800,
    "batch_windows": 256,
    "learning_rate": 2e-3,
    "patience": 10**9,
    "max_seconds": 1e9,
}
"""The same course for every table, whatever the speed of the machine. Nothing is trimmed: what is rare is to be
rare in what is made up, too."""
_LATENT: Mapping[Kind, int] = {"features": 8, "series": 4, "images": 16}
"""Numbers of a code. Of windows few: where it tells noise, too, the nearest codes are those of the least noise."""
_EPOCH_VALUES, _BATCH_VALUES, _LEAST_BATCH = 2**25, 2**21, 16
"""Of images: large ones are learned from less often, and fewer together."""
_HELD_OUT = 0.15
_RANKED_ROWS, _RANKED_VALUES = 262_144, 2**22
_MOST_PIXELS = 1_024
"""Values of an image of which each has ranks of its own. They tell small drawings, of pixels that are nearly always
black, better; photographs are better without, and so many take as long as all else."""
_MOST_WINDOWS, _MOST_REFERENCE_VALUES, _MOST_USUAL = 16_384, 2**23, 4_096
_MOST_COMPARED = 2**14
"""Values of an image by which distances are told, drawn evenly: of larger ones all would tell no more."""
_APART = 1.05
"""How much farther from training rows samples are to lie than these from one another: a median of few varies."""
_WIDEST: Mapping[Kind, float] = {"features": 16.0, "series": 1.0, "images": 16.0}
"""Of samples; beyond 1 they vary more than the original, and windows get noise that the series never had."""


def fit_generator(
    kind: Kind,
    features: Sequence[str],
    pieces: Pieces,
    window: int = 1,
    *,
    detector: Detector | None = None,
    name: str = "the model",
    image: ImageShape | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Generator:
    """Learn to draw what looks like these rows.

    Args:
        pieces: finite values.
        window: rows of a window of series; of a detector that is given, its own counts.
        detector: one whose network samples; without one a network is trained.
        name: what to call the detector in an error.
        image: of images, whose values are bytes.

    Raises:
        ValueError: the detector cannot sample, or there are too few rows.
    """
    view = None if detector is None else sampling_view(detector, name)
    window = window if view is None else view.config.window
    held = {each: [x_RF for x_RF in own if len(x_RF) >= window] for each, own in pieces.items()}
    held = {each: own for each, own in held.items() if own}
    if not held:
        longest = max((len(x_RF) for own in pieces.values() for x_RF in own), default=0)
        raise ValueError(
            f"the longest stretch without a gap has {longest:,} rows, and a window has {window:,}; give more rows"
            + ("" if kind != "series" or view is not None else ", or a shorter --window")
        )
    spec = ModelSpec(kind, tuple(features), window, image)
    scale_of = _scales(spec, held, detector)
    scaled = {each: [_scaled(x_RF, scale_of[each]) for x_RF in own] for each, own in held.items()}
    marginals = _marginals([x_RF for own in scaled.values() for x_RF in own], seed, image)
    scores = [marginals.scores(x_RF).astype(np.float32) for own in scaled.values() for x_RF in own]
    windows = windows_of_pieces(scores, window)
    owner_P = np.repeat(np.arange(len(held)), [len(own) for own in held.values()])
    piece_N = np.searchsorted(windows.first_S, np.arange(len(windows.start_N)), side="right") - 1
    with torch.random.fork_rng(devices=[]), one_thread():
        network: Network
        if view is not None:
            network = Given(view.to(torch.device("cpu")), marginals)
        else:
            network = Trained(_trained(spec, windows, seed, progress))
        sampler = Sampler(network, windows)
        grids = {each: _grids(np.concatenate(own), image) for each, own in held.items()}
        generator = Generator(spec, sampler, marginals, scale_of, grids, owner_P[piece_N])
        if kind != "series":
            ((x_NF,),) = held.values()
            rows, count = np.unique(as_values(x_NF), return_counts=True)
            generator.once = rows[count == 1]
        _fit_width(generator, held, seed)
    return generator


def windows_of_pieces(scores: Sequence[npt.NDArray[np.float32]], window: int) -> Windows:
    """Return windows that lie whole within pieces: all, or of many rows evenly spaced ones."""
    rows = sum(len(y_RF) - window + 1 for y_RF in scores)
    step = window - window // 2
    # A divisor of the step, so that the window that follows another is one of them.
    spacing = next((each for each in range(1, step + 1) if step % each == 0 and rows / each <= _MOST_WINDOWS), step)
    first_P = np.cumsum([0, *(len(y_RF) for y_RF in scores)])
    starts = [
        first + np.arange(0, len(y_RF) - window + 1, spacing) for first, y_RF in zip(first_P, scores, strict=False)
    ]
    first_S = np.cumsum([0, *(len(each) for each in starts[:-1])])
    return Windows(np.concatenate(scores), np.concatenate(starts), window, first_S)


def _grids(x_NF: FloatArray, image: ImageShape | None) -> list[Grid]:
    """Return a grid for each feature; of images one for all values."""
    return grids_of(x_NF) if image is None else [Grid(float(x_NF.min()), float(x_NF.max()), 1.0)]


def _scales(spec: ModelSpec, held: Pieces, detector: Detector | None) -> dict[str, tuple[FloatArray, FloatArray]]:
    whole = {each: np.concatenate(own) for each, own in held.items()}
    if spec.kind != "series":
        ((name, x_NF),) = whole.items()
        if detector is not None:
            scaling = detector.scaling
        elif spec.image is not None:
            scaling = fit_images(x_NF, spec.image)
        else:
            scaling = fit_features(x_NF, "deviation")
        return {name: (scaling.center_F, scaling.scale_F)}
    if detector is None:
        own = fit_series(whole, "deviation")
        return {name: (center_F, scale_F) for name, center_F, scale_F in zip(whole, *own.of_all, strict=True)}
    scaling, window = detector.scaling, detector.spec.window
    return {name: scaling.for_series(name) or scaling.for_new(x_RF[:window]) for name, x_RF in whole.items()}


def _scaled(x_RF: FloatArray, scale: tuple[FloatArray, FloatArray]) -> FloatArray:
    return (x_RF - scale[0]) / scale[1]


def _marginals(scaled: Sequence[FloatArray], seed: int, image: ImageShape | None) -> Marginals | OfPixels:
    rows = sum(map(len, scaled))
    if image is not None and image.values > _MOST_PIXELS:
        every = -(-rows * image.values // _RANKED_VALUES)
        return OfPixels.of(np.concatenate(scaled)[::every], image.channels)
    if rows <= _RANKED_ROWS:
        return Marginals.of(np.concatenate(scaled))
    every = -(-rows // _RANKED_ROWS)
    random = np.random.default_rng(seed)
    return Marginals.of(np.concatenate([x_RF[random.random(len(x_RF)) < 1 / every] for x_RF in scaled]))


def _trained(spec: ModelSpec, windows: Windows, seed: int, progress: Callable[[float], None]) -> View:
    features = len(spec.features)
    latent = min(_LATENT[spec.kind], spec.window * features)
    wanted = {"window": spec.window, "inputs": "values", "measure": "whole", "fade": None}
    course = _LEARNING if spec.image is None else _course(spec.image)
    plan = plan_of(spec.kind, features, DEFAULT, {**course, "latent": latent, "seed": seed}, views=[wanted])
    torch.manual_seed(seed)
    view = View(features, plan.views[0], spec.image)
    every_N = np.arange(len(windows.start_N))
    if spec.kind != "series":
        every_N = np.random.default_rng(seed).permutation(every_N)
    cut = max(1, len(every_N) - int(_HELD_OUT * len(every_N)))
    train(view, windows, np.sort(every_N[:cut]), np.sort(every_N[cut:]), plan.training, progress)
    return view.eval()


def _course(image: ImageShape) -> dict[str, Any]:
    """Return how images of a size are learned from, in about the same time whatever the size."""
    epoch, least = (
        min(int(_LEARNING[name]), max(_LEAST_BATCH, _EPOCH_VALUES // image.values))
        for name in ("epoch_windows", "least_epoch_windows")
    )
    batch = min(int(_LEARNING["batch_windows"]), max(_LEAST_BATCH, _BATCH_VALUES // image.values))
    return {**_LEARNING, "epoch_windows": epoch, "least_epoch_windows": least, "batch_windows": batch}


def _fit_width(generator: Generator, held: Pieces, seed: int) -> None:
    """Fit how wide samples are drawn around training rows, by distances in standard deviations of the features."""
    sampler, random = generator.sampler, np.random.default_rng([seed, 1])
    if generator.spec.kind != "series":
        ((x_NF,),) = held.values()
        compared = _compared(generator.spec.image, random)
        # Of pixels by themselves a corner that is nearly always black would count more than all others.
        (name,) = generator.scale_of
        x_NF = x_NF if compared is None else x_NF[:, compared]
        unit_F = deviations(x_NF) if generator.spec.image is None else np.ones(x_NF.shape[1])
        reference_SD = distinct(x_NF) / unit_F
        without = itself(len(reference_SD))

        def rows_of(y_BTF: Tensor) -> FloatArray:
            y_BTF = y_BTF if compared is None else y_BTF[:, :, torch.from_numpy(compared)]
            return distinct(generator.values(name, y_BTF, compared)[:, 0]) / unit_F

    else:
        values = sampler.windows.window * sampler.windows.z_RF.shape[1]
        count = len(sampler.windows.start_N)
        chosen = np.sort(random.permutation(count)[: max(2, _MOST_REFERENCE_VALUES // values)])

        def rows_of(y_BTF: Tensor) -> FloatArray:
            return generator.marginals.values(flat(y_BTF)).reshape(len(y_BTF), -1)

        reference_SD = np.concatenate([rows_of(sampler.taken(part)) for part in np.array_split(chosen, 16)])
        first_N, end_N = (each[chosen] for each in sampler.overlapping)
        without = np.searchsorted(chosen, first_N), np.searchsorted(chosen, end_N)
    # Of some, to all: the median needs no more.
    some = np.sort(random.permutation(len(reference_SD))[:_MOST_USUAL])
    usual_S = distances(reference_SD[some], reference_SD, (without[0][some], without[1][some]), 1)
    usual_S = usual_S[np.isfinite(usual_S)]
    if not len(usual_S) or not np.median(usual_S):
        return

    def apart(y_BTF: Tensor) -> float:
        found_B = distances(rows_of(y_BTF), reference_SD, candidates=1)
        # A copy of a record that was there once is drawn anew, one of many is theirs.
        found_B = found_B[found_B > 0]
        return float(np.median(found_B)) if len(found_B) else np.inf

    widest = _WIDEST[generator.spec.kind]
    sampler.fit_width(apart, _APART * float(np.median(usual_S)), widest, random)


def _compared(image: ImageShape | None, random: np.random.Generator) -> IntArray | None:
    """Return by which values of a large image distances are told, those of a pixel together; None: by all."""
    if image is None or image.values <= _MOST_COMPARED:
        return None
    pixels = image.height * image.width
    chosen = np.sort(random.permutation(pixels)[: _MOST_COMPARED // image.channels])
    return (chosen[:, None] * image.channels + np.arange(image.channels)).reshape(-1)
