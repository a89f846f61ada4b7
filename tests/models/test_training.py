"""Training on what users have: few rows, constant columns, gaps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import nn
from torch.optim import Optimizer

from models import architectures
from models.architectures import vanilla
from models.arrays import IntArray
from models.dataset import windows_of
from models.plan import plan_of
from models.resume import Course, Unfinished
from models.scaling import Scaling, estimated, fit_features, fit_series
from models.spec import Kind, ModelSpec
from models.training import TrainingConfig, solve, train, trimmed_mean
from models.views import View, ViewConfig
from pipeline.connectors.storage import ObjectStorage
from tests.streams import fit

CPU = torch.device("cpu")
QUICK = {"max_epochs": 2, "hidden": 8}


def times(count: int) -> IntArray:
    return 60_000 * np.arange(count)


@pytest.mark.parametrize("rows", [0, 5, 31])
def test_too_few_rows_are_refused(rows: int) -> None:
    spec = ModelSpec("series", ("a",), 16)
    with pytest.raises(ValueError, match=rf"the longest of 1 series has {rows} finite rows; training needs 32 of"):
        fit(spec, "vanilla", QUICK, {"s": (times(rows), np.random.rand(rows, 1))})
    columns = {"": (times(rows), np.random.rand(rows, 2))}
    with pytest.raises(ValueError, match="training needs 50"):
        fit(ModelSpec("features", ("a", "b"), 1), "vanilla", QUICK, columns)


@pytest.mark.parametrize("kind", ["series", "features"])
def test_features_without_a_finite_value_are_named(kind: Kind) -> None:
    names = ("a", *(f"n{number}" for number in range(20)))
    x_NF = np.full((100, 21), np.nan)
    x_NF[:, 0] = np.arange(100)
    spec = ModelSpec(kind, names, 16 if kind == "series" else 1)
    with pytest.raises(ValueError, match=r"no row has a finite value of: n0, n1, .*, n7 and 12 more; leave out"):
        fit(spec, "vanilla", QUICK, {"s": (times(100), x_NF)})


@pytest.mark.parametrize(("where", "value"), [(50, 49), (50, 48), (99, 0)])
def test_times_that_do_not_go_on_are_refused(where: int, value: int) -> None:
    time_ms_T = times(100)
    time_ms_T[where] = 60_000 * value
    with pytest.raises(
        ValueError, match=rf"the times of series 's' repeat or go back 1 times, first in row {where};"
    ):
        fit(ModelSpec("series", ("a",), 16), "vanilla", QUICK, {"s": (time_ms_T, np.random.rand(100, 1))})


def test_no_records_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no records; training needs 50"):
        fit(ModelSpec("features", ("a",), 1), "vanilla", QUICK, {})


@pytest.mark.parametrize("rows", [70, 126, 127, 128])
def test_a_series_shorter_than_the_longest_view_is_no_obstacle(rows: int) -> None:
    """It has no row of its own to calibrate by, so it begins as one that was never seen."""
    random = np.random.default_rng(0)
    columns = {"old": (times(1000), random.random((1000, 1))), "young": (times(rows), random.random((rows, 1)))}
    detector = fit(ModelSpec("series", ("a",), 2), "default", {}, columns)
    for name in columns:
        assert np.isfinite(detector.score_series(name, columns[name][1])[0]).all()
        assert np.isfinite(detector.calibration.of(0).quantiles_of_series[name]).all()


def test_rows_too_large_to_reckon_with_are_left_out() -> None:
    """The range of such a series overflows: scaled by it, every value would be the same or no number at all."""
    random = np.random.default_rng(0)
    x_TF = random.random((300, 1))
    x_TF[[5, 200]] = [[1.7e308], [-1.7e308]]
    detector = fit(ModelSpec("series", ("a",), 8), "vanilla", QUICK, {"s": (times(300), x_TF)})
    scaling = detector.scaling.for_series("s")
    assert scaling is not None
    assert float(scaling[1][0]) == pytest.approx(1, abs=0.1)
    assert detector.training["rows"] == 298


def test_memory_of_calibration_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more rows than fit, the latest of every series are what it is calibrated by."""
    monkeypatch.setattr("models.fitting._CALIBRATION_VALUES", 400)
    random = np.random.default_rng(0)
    values = {name: np.vstack([random.random((300, 1)), np.full((200, 1), 0.5)]) for name in "pq"}
    columns = {name: (times(500), x_TF) for name, x_TF in values.items()}
    detector = fit(ModelSpec("series", ("a",), 8), "vanilla", QUICK, columns)
    # 400 values are 100 windows of 2 channels a series, all in the quiet part, where every error is the same.
    assert set(detector.calibration.of(0).quantiles_of_series) == {"p", "q"}
    assert float(detector.views[0].usual_C.max()) < 0.5


@pytest.mark.parametrize("kind", ["series", "features"])
def test_awkward_columns_train_and_score_finitely(kind: str) -> None:
    random, count = np.random.default_rng(0), 300
    x_TF = np.stack(
        [
            np.full(count, 3.0),
            np.zeros(count),
            random.standard_cauchy(count) * 1e6,
            np.arange(count) + 1e12,
            random.integers(0, 3, count).astype(float),
        ],
        axis=1,
    )
    x_TF[7, 1] = np.nan
    spec = ModelSpec(kind, ("const", "zero", "heavy", "counter", "int"), 8 if kind == "series" else 1)  # type: ignore[arg-type]
    detector = fit(spec, "vanilla", QUICK, {"s": (times(count), x_TF)})
    center_F, scale_F = detector.scaling.for_series("s") or (detector.scaling.center_F, detector.scaling.scale_F)
    assert (scale_F > 0).all()
    moved_TF = np.vstack([x_TF[-8:], x_TF[-1] + 1])[-spec.window :]
    z_BTF = torch.from_numpy(detector.scaling.apply(moved_TF, center_F, scale_F))[None]
    assert torch.isfinite(detector.surprise(z_BTF)).all()
    assert torch.isfinite(detector.explain(z_BTF).expected_BF).all()


def test_all_rows_equal_is_no_error() -> None:
    spec = ModelSpec("series", ("a",), 8)
    detector = fit(spec, "vanilla", QUICK, {"s": (times(100), np.ones((100, 1)))})
    with torch.no_grad():
        same = detector.surprise(torch.zeros(1, 8, 1))
        jump = detector.surprise(torch.cat([torch.zeros(1, 7, 1), torch.ones(1, 1, 1)], dim=1))
    assert float(jump) > float(same)


def test_the_windows_of_largest_loss_are_left_out() -> None:
    loss_B = torch.tensor([5.0, 1.0, 100.0, 2.0, 3.0, 1.0, 90.0, 2.0, 3.0, 3.0], requires_grad=True)
    trimmed_mean(loss_B, 0.25).backward()  # type: ignore[no-untyped-call]
    assert loss_B.grad is not None
    assert loss_B.grad.tolist() == [0.125, 0.125, 0, 0.125, 0.125, 0.125, 0, 0.125, 0.125, 0.125]
    assert float(trimmed_mean(loss_B, 0.0).detach()) == pytest.approx(21)
    assert float(trimmed_mean(loss_B[:3], 0.25).detach()) == pytest.approx(106 / 3)


def test_an_anomaly_that_recurs_in_training_is_not_learned() -> None:
    """Reconstruction of a pattern that training held four times is left as bad as it comes."""
    random, errors = np.random.default_rng(0), {}
    x_TF = np.sin(np.arange(4000)[:, None] / np.array([5.0, 11.0])) + 0.1 * random.standard_normal((4000, 2))
    pattern_TF = random.choice([-1.0, 1.0], (16, 2))
    for place in range(200, 3300, 800):
        x_TF[place : place + 16] = pattern_TF
    for trimmed in (0.0, 0.05):
        options = {"max_epochs": 20, "trimmed": trimmed}
        detector = fit(ModelSpec("series", ("a", "b"), 16), "vanilla", options, {"s": (times(4000), x_TF)})
        scaling = detector.scaling.for_series("s")
        assert scaling is not None
        z_BTF = torch.from_numpy(detector.scaling.apply(pattern_TF, *scaling))[None]
        with torch.no_grad():
            x_BTC = detector.views[0].inputs(z_BTF)
            errors[trimmed] = float((detector.views[0].network(x_BTC) - x_BTC).square().mean())
    assert errors[0.05] > 1.5 * errors[0.0]


@pytest.mark.parametrize("name", [name for name in architectures.available() if name != "linear"])
def test_mixed_precision_learns_as_well(name: str) -> None:
    """On the CPU by the same lines as on a GPU: weights stay float32, and little is lost."""
    random, held_out = np.random.default_rng(0), {}
    x_TF = np.sin(np.arange(1500)[:, None] / np.array([5.0, 11.0])) + 0.1 * random.standard_normal((1500, 2))
    for mixed in ("auto", "never", "always"):
        options = {"max_epochs": 4, "mixed_precision": mixed}
        detector = fit(ModelSpec("series", ("a", "b"), 16), name, options, {"s": (times(1500), x_TF)})
        assert {tensor.dtype for tensor in detector.views[0].network.state_dict().values()} == {torch.float32}
        held_out[mixed] = detector.training["views"][0]["held_out_loss"]
    assert held_out["auto"] == held_out["never"]
    assert held_out["always"] != held_out["never"]
    assert held_out["always"] == pytest.approx(held_out["never"], rel=0.2)


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mixed_precision' is True; it takes one of: auto, always, never"):
        plan_of("series", 1, "vanilla", {"mixed_precision": True})


@pytest.mark.parametrize("option", ["trimmed", "least_gain"])
def test_a_share_that_leaves_nothing_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"option '{option}' is 1\.0; it takes a share below 1"):
        fit(ModelSpec("series", ("a",), 8), "vanilla", {option: 1.0}, {"s": (times(100), np.ones((100, 1)))})


def test_an_architecture_with_one_loss_for_the_batch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanilla.Autoencoder, "loss", lambda self, x_BTC, done: self(x_BTC).square().mean())
    with pytest.raises(ValueError, match=r"architecture vanilla: `loss` returned shape \(\) for \d+ windows"):
        fit(ModelSpec("series", ("a",), 8), "vanilla", {}, {"s": (times(300), np.ones((300, 1)))})


class Watching(Unfinished):
    """Keeps nothing, but notes the learning rate that each epoch ends with, and its held-out loss."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ObjectStorage(folder.as_uri()), "none")
        self.rates: list[float] = []

    def save(self, part: str, course: Course, network: nn.Module, optimizer: Optimizer, random: Generator) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_training_ends_early_where_there_is_no_more_to_learn(tmp_path: Path) -> None:
    """It is nearly as good as one that takes all of its epochs, and its learning rate has fallen as low."""
    time_T, random = np.arange(4000)[:, None], np.random.default_rng(0)
    columns = {"s": (times(4000), np.sin(time_T / [5.0, 11.0]) + 0.3 * random.standard_normal((4000, 2)))}
    whole, early = Watching(tmp_path), Watching(tmp_path)
    trained = {}
    for watching, patience in ((whole, 10_000), (early, 50)):
        options = {"max_epochs": 40, "patience": patience}
        told: list[float] = []
        how = {"unfinished": watching, "progress": told.append}
        detector = fit(ModelSpec("series", ("a", "b"), 16), "vanilla", options, columns, **how)
        (trained[patience],) = detector.training["views"]
    assert trained[10_000]["epochs"] == len(whole.rates) == 40
    epochs = trained[50]["epochs"]
    assert len(early.rates) == epochs <= 16
    assert trained[50]["held_out_loss"] < 1.1 * trained[10_000]["held_out_loss"]
    half = epochs // 2
    assert early.rates[:half] == whole.rates[:half] == [TrainingConfig().learning_rate] * half
    assert early.rates[half:] == sorted(set(early.rates[half:]), reverse=True)
    assert early.rates[-1] < 0.02 * early.rates[0]
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_nothing_held_out_is_no_reason_to_end() -> None:
    view = View(1, ViewConfig("vanilla", {}, 8))
    windows = windows_of([np.random.default_rng(0).random((200, 1), np.float32)], 8)
    config, none_N = TrainingConfig(max_epochs=12, patience=1, least_gain=0.9), np.arange(0)
    assert train(view, windows, np.arange(200), none_N, config).epochs == 12
    assert train(view, windows, np.arange(200), np.arange(200), config).epochs < 12


def test_a_loss_is_waited_for_until_it_falls_by_enough() -> None:
    course, waited = Course(planned=20), []
    for held_out in (1.0, 0.96, 0.94, 0.93, 0.5, 0.6, 0.48):
        course.gained(held_out, batches=7, least_gain=0.05)
        waited.append(course.waited)
    assert waited == [0, 7, 0, 7, 0, 7, 14]


def test_training_ends_by_time() -> None:
    spec = ModelSpec("series", ("a",), 8)
    columns = {"s": (times(2000), np.random.default_rng(0).random((2000, 1)))}
    done: list[float] = []
    options = {"max_epochs": 10_000, "max_seconds": 0.3, "patience": 10**9}
    detector = fit(spec, "vanilla", options, columns, progress=done.append)
    assert detector.training["views"][0]["epochs"] < 10_000
    assert done[-1] == 1.0
    assert done == sorted(done)


def test_a_new_series_is_scaled_like_the_others_where_they_are_alike() -> None:
    alike = fit_series({str(i): np.random.default_rng(i).random((100, 1)) * 10 for i in range(5)})
    center_F, scale_F = alike.for_new(np.array([[4.0], [5.0]]))
    assert center_F[0] == pytest.approx(0, abs=0.5)
    assert scale_F[0] == pytest.approx(10, abs=1)
    apart = fit_series({str(i): np.random.default_rng(i).random((100, 1)) * 10**i for i in range(5)})
    center_F, scale_F = apart.for_new(np.array([[4.0], [5.0]]))
    assert (center_F[0], scale_F[0]) == (3.5, 2.0)
    assert alike.for_series("unknown") is None


@pytest.mark.parametrize("alike", [True, False])
def test_a_series_of_the_largest_numbers_has_finite_scores(alike: bool) -> None:
    random = np.random.default_rng(0)
    levels = {"a": 0.0, "b": 0.0 if alike else 1e6, "c": 0.0 if alike else -1e6}
    columns = {name: (times(200), level + random.random((200, 1))) for name, level in levels.items()}
    detector = fit(ModelSpec("series", ("v",), 8), "vanilla", QUICK, columns)
    largest = np.finfo(np.float64).max
    for first in (1.0, largest, -largest):
        x_NF = np.where(random.random((60, 1)) < 0.5, largest, -largest)
        x_NF[0] = first
        for score_N in detector.score_series("new", x_NF).values():
            assert np.isfinite(score_N).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x_NF = np.random.default_rng(0).random((100, 2))
    series = fit(ModelSpec("series", ("a", "b"), 8), "vanilla", QUICK, {"s": (times(100), x_NF)})
    features = fit(ModelSpec("features", ("a", "b"), 1), "vanilla", QUICK, {"": (times(100), x_NF)})
    bad_NF = x_NF.copy()
    bad_NF[[40, 70], 1] = value
    said = rf"row 40 holds {value} as 'b', the first of 2 such values; a model needs finite ones"
    with pytest.raises(ValueError, match=said):
        series.score_series("s", bad_NF)
    with pytest.raises(ValueError, match=said):
        features.score_rows(bad_NF)


def test_scaling_is_exact_for_large_counters() -> None:
    center_F, scale_F = estimated(1e15 + np.arange(5.0)[:, None], "range")
    z_TF = Scaling.apply(1e15 + np.arange(5.0)[:, None], center_F, scale_F)
    np.testing.assert_allclose(z_TF[:, 0], [0, 0.25, 0.5, 0.75, 1])
    assert fit_features(np.ones((60, 2))).scale_F.tolist() == [1, 1]


def test_a_spec_without_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one feature"):
        ModelSpec("series", (), 8)
    with pytest.raises(ValueError, match="window is 1, not 8"):
        ModelSpec("features", ("a",), 8)
    with pytest.raises(ValueError, match="at least 2 points"):
        ModelSpec("series", ("a",), 1)


def test_every_series_has_its_say_in_a_sample() -> None:
    """Beside one long series of thousands of short ones, all are drawn from, and the long one most."""
    series = [np.zeros((length, 1), np.float32) for length in (20_000, *[60] * 2000)]
    windows = windows_of(series, 8)
    every_N = np.arange(len(windows.start_N))
    drawn_N = windows.drawn(every_N, 8000, np.random.default_rng(0))
    assert len(set(drawn_N.tolist())) == 8000
    count_S = np.bincount(np.searchsorted(windows.first_S, drawn_N, side="right") - 1, minlength=2001)
    assert count_S.min() >= 1
    assert count_S.argmax() == 0
    few_N = windows.drawn(every_N, 500, np.random.default_rng(0))
    assert len(set(few_N.tolist())) == 500


def test_a_sample_of_all_is_all() -> None:
    windows = windows_of([np.zeros((30, 1), np.float32), np.zeros((5, 1), np.float32)], 8)
    chosen_N = np.array([3, 7, 31])
    assert sorted(windows.drawn(chosen_N, 3, np.random.default_rng(0)).tolist()) == [3, 7, 31]
    assert set(windows.drawn(chosen_N, 2, np.random.default_rng(0)).tolist()) > {31}


@pytest.mark.parametrize(("rows", "features"), [(20_000, 2), (600, 1200)])
def test_a_closed_form_takes_a_bounded_sample(rows: int, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of features or millions of rows are no reason to hold all windows at once."""
    view = View(features, ViewConfig("linear", {"latent": 2}, 50, "values"))
    taken: list[torch.Tensor] = []
    monkeypatch.setattr(view.network, "solve", taken.append)
    windows = windows_of([np.random.default_rng(0).random((rows, features), np.float32)], 50)
    solve(view, windows, np.arange(rows), np.random.default_rng(0))
    ((drawn, _, _),) = [x_NTC.shape for x_NTC in taken]
    assert drawn == min(8000, 2**25 // (50 * features))
