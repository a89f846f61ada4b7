"""Training on what users have: few rows, constant columns, gaps."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.scaling import Scaling, fit_features, fit_series
from models.spec import Kind, ModelSpec
from tests.streams import fit

CPU = torch.device("cpu")
QUICK = {"max_epochs": 2, "hidden": 8}


def times(count: int) -> npt.NDArray[np.int64]:
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


def test_training_ends_by_time() -> None:
    spec = ModelSpec("series", ("a",), 8)
    columns = {"s": (times(2000), np.random.default_rng(0).random((2000, 1)))}
    done: list[float] = []
    detector = fit(spec, "vanilla", {"max_epochs": 10_000, "max_seconds": 0.3}, columns, progress=done.append)
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
    said = rf"row 40 holds {value} as 'b', the first of 2 such values; scores need finite ones"
    with pytest.raises(ValueError, match=said):
        series.score_series("s", bad_NF)
    with pytest.raises(ValueError, match=said):
        features.score_rows(bad_NF)


def test_scaling_is_exact_for_large_counters() -> None:
    center_F, scale_F = Scaling.estimate(1e15 + np.arange(5.0)[:, None])
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
