"""How much what `offkey generate` has made is like the original: the report, and what its pictures are drawn from.

Compared are made-up rows, before anything was injected into them, with rows that were held out; distances are to
the rows that were learned from. Of series windows are compared that share no row, in units of each series' own
spread, so that series of different levels stand side by side. Beside the two-sample test stands that of rows
learned from against rows held out: where time has changed the series, real ones are told apart, too.

Legend: N real rows or windows, M made-up ones, S learned ones, T steps of a window, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from models.apart import Span, deviations
from models.arrays import FloatArray, IntArray
from models.fidelity import (
    autocorrelations,
    correlations,
    marginal_distances,
    privacy,
    window_numbers,
)
from models.generator import Generator
from models.image_numbers import ImageNumbers
from models.spec import ImageShape
from pipeline.jobs.two_sample import FOLDS, two_sample

_MOST_ROWS, _MOST_SERIES, _MOST_VALUES, _MOST_LEARNED = 10_000, 64, 2**23, 8_192
_LEAST = 4 * FOLDS


@dataclass(frozen=True)
class Images:
    """The images that are compared, as bytes."""

    shape: ImageShape
    real_NF: FloatArray
    made_MF: FloatArray
    learned_SF: FloatArray


@dataclass(frozen=True)
class Compared:
    """Rows, or windows, side by side: each [N, T, F], of records T is 1."""

    features: tuple[str, ...]
    real: FloatArray
    made: FloatArray
    learned: FloatArray
    overlapping: Span | None = None
    """Of learned windows: which share rows."""
    images: Images | None = None
    """Whose numbers the rows are."""

    @property
    def of(self) -> str:
        """What is compared, in a word."""
        return "images" if self.images else "windows" if self.real.shape[1] > 1 else "records"

    @property
    def near(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What distances are of: what was made, what was learned from, and the units."""
        if self.images is not None:
            unit_F = np.full(self.images.shape.values, np.sqrt(self.images.shape.values))
            return self.images.made_MF, self.images.learned_SF, unit_F
        learned_SD = self.learned.reshape(len(self.learned), -1)
        return self.made.reshape(len(self.made), -1), learned_SD, deviations(learned_SD)


def compared_records(generator: Generator, learned: FloatArray, held_out: FloatArray, seed: int) -> Compared:
    """Set records, or images, side by side: the first ones that are made."""
    count = min(len(held_out), _MOST_ROWS)
    parts = islice(generator.records(count, seed), -(-count // generator.chunk))
    made = np.concatenate([np.empty((0, len(generator.spec.features)), held_out.dtype), *parts])
    if generator.spec.image is None:
        return Compared(generator.spec.features, held_out[:count, None], made[:, None], learned[:, None])
    numbers = ImageNumbers(generator.spec.image, learned)
    real, fake, known = (numbers.of(each)[:, None] for each in (held_out[:count], made, learned))
    images = Images(generator.spec.image, held_out[:count], made, learned)
    return Compared(numbers.names, real, fake, known, images=images)


def compared_series(
    generator: Generator,
    asked: Sequence[str],
    learned: Mapping[str, Sequence[FloatArray]],
    held_out: Mapping[str, Sequence[FloatArray]],
    seed: int,
) -> Compared:
    """Set windows of series side by side: of some of those asked for, the first rows that are made."""
    window = generator.spec.window
    most = max(_LEAST, min(_MOST_ROWS, _MOST_VALUES // (window * len(generator.spec.features))))
    names = [name for name in asked if name in held_out][:_MOST_SERIES]
    real, made, known, places = list[FloatArray](), list[FloatArray](), list[FloatArray](), list[IntArray]()
    first = 0
    for name in names:
        own, _ = _windows(held_out[name], window, window)
        own = own[: max(1, most // len(names))]
        if not len(own):
            continue
        whole = np.concatenate(list(learned[name]))
        center_F, spread_F = whole.mean(axis=0), deviations(whole)
        rows = np.concatenate(list(generator.series(name, len(own) * window, seed)))
        near, place_S = _windows(learned[name], window, max(1, window // 4))
        for found, x_NTF in ((real, own), (made, _windows([rows], window, window)[0]), (known, near)):
            found.append((x_NTF - center_F) / spread_F)
        places.append(first + place_S)
        first += len(whole) + window * (len(learned[name]) + 1)
    none = np.empty((0, window, len(generator.spec.features)))
    every = -(-sum(map(len, known)) // _MOST_LEARNED) or 1
    known_STF = np.concatenate([none, *known])[::every]
    place_S = np.concatenate([np.zeros(0, np.int64), *places])[::every]
    spans = (
        np.searchsorted(place_S, place_S - window, side="right"),
        np.searchsorted(place_S, place_S + window, side="left"),
    )
    return Compared(
        generator.spec.features, np.concatenate([none, *real]), np.concatenate([none, *made]), known_STF, spans
    )


def measured(compared: Compared, seed: int) -> dict[str, Any]:
    """Return the report; a part of it is None where there are too few rows for it."""
    of_windows = compared.real.shape[1] > 1
    real_NF, made_MF = (x_NTF.reshape(-1, len(compared.features)) for x_NTF in (compared.real, compared.made))
    report: dict[str, Any] = {
        "held_out": len(compared.real),
        "compared": len(compared.made),
        "learned": len(compared.learned),
        "of": compared.of,
    }
    if not len(real_NF) or not len(made_MF):
        return report | {"marginals": None, "correlations": None, "privacy": None, "two_sample": None}
    distance_F = marginal_distances(real_NF, made_MF)
    correlation_FF = np.abs(correlations(real_NF) - correlations(made_MF))
    report["marginals"] = {
        name: {
            "distance": float(distance),
            "mean": [float(real_NF[:, column].mean()), float(made_MF[:, column].mean())],
            "std": [float(real_NF[:, column].std()), float(made_MF[:, column].std())],
        }
        for column, (name, distance) in enumerate(zip(compared.features, distance_F, strict=True))
    }
    pairs = np.triu_indices(len(correlation_FF), 1)
    report["correlations"] = (
        {"mean_difference": float(correlation_FF[pairs].mean()), "largest": float(correlation_FF[pairs].max())}
        if len(pairs[0])
        else None
    )
    if of_windows:
        apart_TF = np.abs(autocorrelations(compared.real) - autocorrelations(compared.made))
        report["autocorrelation"] = {"mean_difference": float(apart_TF.mean()), "largest": float(apart_TF.max())}
    report["privacy"] = _privacy(compared)
    report["two_sample"] = _told_apart(compared, of_windows, seed)
    return report


def _privacy(compared: Compared) -> dict[str, Any]:
    made_MD, learned_SD, unit_D = compared.near
    found = privacy(made_MD, learned_SD, compared.overlapping, unit_D)
    return {**asdict(found), "kept": found.kept}


def _told_apart(compared: Compared, of_windows: bool, seed: int) -> dict[str, Any] | None:
    numbers = [
        window_numbers(x_NTF) if of_windows else x_NTF[:, 0]
        for x_NTF in (compared.real, compared.made, compared.learned)
    ]
    if min(map(len, numbers)) < _LEAST:
        return None
    random = np.random.default_rng(seed)
    real, made, learned = (x_ND[random.permutation(len(x_ND))] for x_ND in numbers)
    return {**asdict(two_sample(real, made, seed)), "auroc_of_learned": two_sample(real, learned, seed).auroc}


def _windows(pieces: Sequence[FloatArray], window: int, step: int) -> tuple[FloatArray, IntArray]:
    """Return windows so many rows apart, x_NTF, and where each begins; those of different pieces lie far apart."""
    found, places, first = list[FloatArray](), list[IntArray](), 0
    for x_RF in pieces:
        if len(x_RF) >= window:
            every = np.lib.stride_tricks.sliding_window_view(x_RF, window, axis=0)[::step].transpose(0, 2, 1)
            found.append(every)
            places.append(first + step * np.arange(len(every)))
        first += len(x_RF) + window
    none = np.empty((0, window, pieces[0].shape[1] if len(pieces) else 0))
    return np.concatenate([none, *found]), np.concatenate([np.zeros(0, np.int64), *places])
