"""Made-up rows are like the original, on its grid, repeatable, and no copies."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from models import generating
from models.apart import distinct
from models.arrays import FloatArray
from models.fidelity import autocorrelations, correlations, marginal_distances, privacy
from models.fitting import fit_detector
from models.generating import fit_generator
from models.generator import Generator
from models.marginals import OfPixels
from models.plan import plan_of
from models.spec import ImageShape

FEATURES = ("level", "count", "kind")
QUICK = {"max_epochs": 4, "epoch_windows": 2_048, "least_epoch_windows": 2_048}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "_LEARNING", {**generating._LEARNING, **QUICK})


def records(rows: int = 800, seed: int = 0) -> FloatArray:
    """Return a ring that no normal distribution has, whole numbers that follow from it, and one of three kinds."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, rows)
    level = np.cos(angle) + 0.05 * random.standard_normal(rows)
    count = np.round(200 + 100 * np.sin(angle) + 5 * random.standard_normal(rows))
    kind = np.where(angle < 2, 0.0, np.where(angle < 4, 1.0, 5.0))
    return np.column_stack([level, count, kind])


def cycles(rows: int = 1_200, seed: int = 0, level: float = 50.0) -> FloatArray:
    random = np.random.default_rng(seed)
    phase = np.arange(rows) / 24 * 2 * np.pi
    slow = np.cumsum(random.standard_normal((rows, 1)), axis=0) / 30
    x = np.column_stack([np.sin(phase), np.cos(phase)]) + 0.05 * random.standard_normal((rows, 2)) + slow
    return np.round(level + 10 * x, 1)


@cache
def _of_records(rows: int = 800) -> Generator:
    return fit_generator("features", FEATURES, {"": [records(rows)]})


@pytest.fixture
def of_records() -> Generator:
    return replace(_of_records())


@cache
def _of_series() -> Generator:
    pieces = {"a": [cycles(seed=1)], "b": [cycles(600, 2, 500.0), cycles(400, 3, 500.0)]}
    return fit_generator("series", ("one", "other"), pieces, 16)


@pytest.fixture
def of_series() -> Generator:
    return _of_series()


def made(generator: Generator, count: int = 1_000, seed: int = 0) -> FloatArray:
    return np.concatenate(list(generator.records(count, seed)))


def test_records_lie_on_the_grid_and_in_the_range_of_the_original(of_records: Generator) -> None:
    x_NF, drawn_NF = records(), made(of_records)
    assert drawn_NF.shape == (1_000, 3)
    assert (drawn_NF[:, 1] == np.rint(drawn_NF[:, 1])).all()
    assert set(drawn_NF[:, 2].tolist()) == {0.0, 1.0, 5.0}
    assert (drawn_NF.min(axis=0) >= x_NF.min(axis=0)).all()
    assert (drawn_NF.max(axis=0) <= x_NF.max(axis=0)).all()


def test_records_are_like_fresh_ones(of_records: Generator) -> None:
    fresh_NF, drawn_NF = records(1_000, seed=9), made(of_records)
    assert marginal_distances(fresh_NF, drawn_NF).max() < 0.1
    assert np.abs(correlations(fresh_NF) - correlations(drawn_NF)).max() < 0.15
    # On the ring, which a normal distribution of the same correlation would fill.
    radius_N = np.hypot(drawn_NF[:, 0], (drawn_NF[:, 1] - 200) / 100)
    assert (np.abs(radius_N - 1) < 0.3).mean() > 0.9


def test_no_record_is_a_copy_of_one(of_records: Generator) -> None:
    found = privacy(made(of_records, 4_000), records())
    assert found.copies_of_one == 0
    # A median of few has its own scatter.
    assert found.median > 0.9 * found.median_among_training


def test_copies_are_drawn_anew() -> None:
    """Of whole numbers in a small range many would be copies by chance."""
    x_NF = np.random.default_rng(0).integers(0, 20, (300, 2)).astype(float)
    generator = fit_generator("features", ("a", "b"), {"": [x_NF]})
    drawn_NF = made(generator, 500)
    rows, count = np.unique(x_NF, axis=0, return_counts=True)
    once = {tuple(row) for row in rows[count == 1].tolist()}
    assert once
    assert generator.redrawn > 0
    assert not once & {tuple(row) for row in drawn_NF.tolist()}


def test_the_same_seed_gives_the_same_records_and_more_begin_alike(of_records: Generator) -> None:
    first = made(of_records, 300, seed=3)
    assert made(of_records, 300, seed=3).tolist() == first.tolist()
    assert made(of_records, 9_000, seed=3)[:300].tolist() == first.tolist()
    assert made(of_records, 300, seed=4).tolist() != first.tolist()


def test_fitting_is_repeatable_and_leaves_torch_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    again = fit_generator("features", FEATURES, {"": [records()]})
    assert torch.rand(3).tolist() == expected
    assert made(again, 200).tolist() == made(_of_records(), 200).tolist()


def test_series_keep_their_level_grid_and_cycle(of_series: Generator) -> None:
    for name, level in (("a", 50.0), ("b", 500.0)):
        rows_RF = np.concatenate(list(of_series.series(name, 700, 0)))
        assert rows_RF.shape == (700, 2)
        assert rows_RF.tolist() == np.round(rows_RF, 1).tolist()
        assert np.abs(rows_RF.mean(axis=0) - level).max() < 25
        real = cycles(seed=1)[:700] if name == "a" else cycles(600, 2, 500.0)
        lag = [
            autocorrelations(np.lib.stride_tricks.sliding_window_view(x, 30, axis=0).transpose(0, 2, 1))[1:24]
            for x in (real, rows_RF)
        ]
        assert np.abs(lag[0] - lag[1]).mean() < 0.3


def test_windows_follow_each_other_without_a_jump(of_series: Generator) -> None:
    real, rows_RF = cycles(seed=1), np.concatenate(list(of_series.series("a", 2_000, 0)))
    assert np.quantile(np.abs(np.diff(rows_RF, axis=0)), 0.99) < 2 * np.quantile(
        np.abs(np.diff(real, axis=0)), 0.99
    )


def test_a_series_is_the_same_in_whatever_company(of_series: Generator) -> None:
    alone = np.concatenate(list(of_series.series("b", 100, 7)))
    list(of_series.series("a", 50, 7))
    assert np.concatenate(list(of_series.series("b", 300, 7)))[:100].tolist() == alone.tolist()


def test_variations_lie_around_their_window_the_farther_the_stronger(of_series: Generator) -> None:
    x_TF = cycles(seed=1)[100:116]
    off = []
    for strength in (0.0, 0.5, 1.0, 3.0):
        x_BTF = of_series.variations("a", x_TF, 50, strength, 0)
        assert x_BTF.shape == (50, 16, 2)
        off.append(float(np.abs(x_BTF - x_TF).mean()))
    assert off[0] == 0.0
    assert off[1] < off[2] < off[3]
    other_TF = cycles(seed=1)[112:128]
    near_B = np.abs(of_series.variations("a", x_TF, 50, 0.5, 0) - x_TF).mean(axis=(1, 2))
    assert near_B.max() < np.abs(other_TF - x_TF).mean()


def test_a_detector_that_was_trained_to_detect_samples_too() -> None:
    plan = plan_of("features", 3, "variational", {"max_epochs": 2, "max_seconds": 1e6})
    columns = {"": (np.arange(800), records())}
    detector = fit_detector("features", FEATURES, plan, columns, device=torch.device("cpu"))
    generator = fit_generator("features", FEATURES, {"": [records()]}, detector=detector)
    assert marginal_distances(records(1_000, 9), made(generator)).max() < 0.15


def test_a_series_detector_samples_windows_of_its_own_length() -> None:
    plan = plan_of("series", 2, "variational", {"max_epochs": 1, "max_seconds": 1e6}, window=12)
    columns = {"a": (np.arange(1_200), cycles(seed=1))}
    detector = fit_detector("series", ("one", "other"), plan, columns, device=torch.device("cpu"))
    generator = fit_generator("series", ("one", "other"), {"a": [cycles(seed=1)]}, 99, detector=detector)
    assert generator.spec.window == 12
    rows_RF = np.concatenate(list(generator.series("a", 200, 0)))
    assert np.abs(rows_RF.mean() - cycles(seed=1).mean()) < 10


def test_a_model_that_cannot_sample_is_named_with_what_to_do() -> None:
    plan = plan_of("features", 3, "vanilla", {"max_epochs": 1, "max_seconds": 1e6})
    columns = {"": (np.arange(800), records())}
    detector = fit_detector("features", FEATURES, plan, columns, device=torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"m1: a vanilla model cannot sample; .* `model: \{architecture: variational\}`"
    ):
        fit_generator("features", FEATURES, {"": [records()]}, detector=detector, name="m1")


@pytest.mark.parametrize(
    ("rows", "said"),
    [(10, "the longest stretch .* has 10 rows"), (16, "there are 1 rows or windows"), (17, "no two windows")],
)
def test_rows_too_few_for_windows_are_refused(rows: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_generator("series", ("one", "other"), {"a": [cycles(rows)]}, 16)


def test_constant_features_stay_constant() -> None:
    x_NF = np.column_stack([records()[:, :2], np.full(800, 7.0)])
    drawn_NF = made(fit_generator("features", FEATURES, {"": [x_NF]}), 200)
    assert set(drawn_NF[:, 2].tolist()) == {7.0}


@pytest.mark.parametrize("kind", ["whole", "float", "bytes"])
def test_rows_that_differ_are_those_that_numpy_finds(kind: str) -> None:
    x_NF: Any = np.random.default_rng(0).integers(-2, 3, (200, 4)) / (1 if kind == "whole" else 7)
    x_NF[:40] *= 1e300
    x_NF[x_NF == 0] = np.where(np.arange((x_NF == 0).sum()) % 2, 0.0, -0.0)
    if kind == "bytes":
        x_NF = np.random.default_rng(0).choice(np.array([0, 1, 127, 128, 255], np.uint8), (200, 4))
    expected = np.unique(x_NF, axis=0)
    assert 100 < len(expected) < 200
    assert np.array_equal(distinct(x_NF), expected)
    assert distinct(x_NF).dtype == x_NF.dtype


@pytest.mark.parametrize(("side", "channels", "compared"), [(40, 1, 1_600), (96, 3, 16_383)])
def test_what_fitting_the_width_takes_is_bounded_by_values(
    side: int, channels: int, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each width few of the large images are tried, and some of the values of each are led back and compared."""
    tried: list[tuple[int, int]] = []
    values = OfPixels.values

    def counted(own: OfPixels, score_NF: FloatArray) -> FloatArray:
        tried.append((len(score_NF), score_NF.shape[1]))
        return values(own, score_NF)

    monkeypatch.setattr(OfPixels, "values", counted)
    monkeypatch.setattr("models.sampling._HALVINGS", 2)
    least = {"max_epochs": 1, "epoch_windows": 16, "least_epoch_windows": 16}
    monkeypatch.setattr("models.generating._LEARNING", {**generating._LEARNING, **least})
    shape = ImageShape(side, side, channels)
    x_NF: Any = np.random.default_rng(0).integers(0, 200, (80, shape.values)).astype(np.uint8)
    generator = fit_generator("images", shape.names, {"": [x_NF]}, image=shape)
    assert len(tried) == 2
    assert {of_image for _, of_image in tried} == {compared}
    assert all(images * shape.values <= 2**21 or images == 64 for images, _ in tried)
    assert generator.sampler.width > 0


def test_large_images_are_bytes_that_look_like_their_own() -> None:
    """Of 40 x 40 pixels each has no ranks of its own: a bright band on dark, at another height in each image."""
    shape, random = ImageShape(40, 40, 1), np.random.default_rng(0)
    x_NHW = random.integers(0, 30, (120, 40, 40)).astype(np.uint8)
    for image, top in zip(x_NHW, random.integers(0, 36, 120).tolist(), strict=True):
        image[top : top + 4] += 200
    x_NF: Any = x_NHW.reshape(120, -1)
    generator = fit_generator("images", shape.names, {"": [x_NF]}, image=shape)
    drawn_NF = made(generator, 40)
    assert drawn_NF.dtype == np.uint8
    assert drawn_NF.shape == (40, 1600)
    assert drawn_NF.max() <= x_NF.max()
    assert abs(float(drawn_NF.mean()) - float(x_NF.mean())) < 10
    bright_NR = (drawn_NF.reshape(40, 40, 40).mean(axis=2) > 100).sum(axis=1)
    assert 1 <= np.median(bright_NR) <= 8
    # Brighter than any that was learned, and as it was all the same.
    brightest_F: Any = np.full(1600, 255, np.uint8)
    for x_F in (x_NF[0], brightest_F):
        assert (generator.variations("", x_F[None], 5, 0.0, 0)[:, 0] == x_F).all()
