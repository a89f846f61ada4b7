"""A detector that has seen little knows that it has: what comes after looks usual, an anomaly still does not."""

import numpy as np
import pytest
import torch

from models.arrays import FloatArray
from models.detector import Detector
from models.fitting import fit_detector
from models.plan import plan_of, whole_windows
from models.scaling import ScalingKind, tamed

CPU = torch.device("cpu")


def rows(kind: str, count: int, features: int, seed: int) -> FloatArray:
    random, time_N1 = np.random.default_rng(seed), np.arange(count)[:, None]
    noise_NF = random.standard_normal((count, features))
    if kind == "waves":
        return np.asarray(np.sin(time_N1 / 7 + np.arange(features)) + 0.1 * noise_NF)
    if kind == "wandering":
        for row in range(1, count):
            noise_NF[row] += 0.9 * noise_NF[row - 1]
    return noise_NF


def fitted(series: list[FloatArray], options: dict[str, str] | None = None) -> Detector:
    features = series[0].shape[1]
    plan = plan_of("series", features, "default", options or {})
    columns = {f"s{number}": (60_000 * np.arange(len(x_TF)), x_TF) for number, x_TF in enumerate(series)}
    return fit_detector("series", [f"f{number}" for number in range(features)], plan, columns, device=CPU)


@pytest.mark.parametrize("kind", ["waves", "white", "wandering"])
@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize(
    ("series", "history"), [(1, 107), (1, 150), (1, 200), (1, 300), (1, 600), (1, 2000), (20, 100)]
)
def test_what_comes_after_looks_usual(kind: str, features: int, series: int, history: int) -> None:
    whole = [rows(kind, history + 400, features, seed) for seed in range(series)]
    detector = fitted([x_NF[:history] for x_NF in whole])
    for delay in (0, None):
        later = [
            detector.score_series(f"s{number}", x_NF, [delay])[delay][history:]
            for number, x_NF in enumerate(whole[:5])
        ]
        little = series == 1 and history < 200
        assert np.median(np.concatenate(later)) < (20 if little else 12)
        assert (np.concatenate(later) > 30).mean() < (0.25 if little else 0.1)


@pytest.mark.parametrize("history", [107, 200, 600])
def test_a_gross_anomaly_is_found_after_little_history(history: int) -> None:
    x_NF = rows("waves", history + 400, 3, 7)
    x_NF[history + 300 : history + 305, 1] += 6
    score_N = fitted([x_NF[:history]]).score_series("s0", x_NF, [0])[0]
    assert score_N[history + 300 : history + 305].max() > 2 * score_N[history : history + 300].max()


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("spike", [10.0, 100.0, 1e6])
def test_one_spike_in_training_hides_no_later_one(features: int, spike: float) -> None:
    x_NF = rows("waves", 3000, features, 0)
    x_NF[100, 0] += spike
    x_NF[2500:2505, 0] += 3
    score_N = fitted([x_NF[:2000]]).score_series("s0", x_NF, [0])[0]
    assert score_N[2500:2505].max() > 35
    assert score_N[2500:2505].max() > 2 * score_N[2200:2495].max()


def test_what_is_seen_twice_is_left_as_it_is() -> None:
    x_TF = rows("white", 1000, 2, 1)
    x_TF[100, 0], x_TF[600, 0], x_TF[300:310, 1] = 50, 40, -30
    kept_TF = tamed(x_TF)
    assert kept_TF[[100, 600], 0].tolist() == [50, 40]
    usual = np.delete(x_TF[:, 1], np.arange(300, 310))
    assert kept_TF[300:310, 1].min() > usual.min() - 1.1 * np.ptp(usual)
    assert np.array_equal(np.delete(kept_TF, np.arange(300, 310), 0), np.delete(x_TF, np.arange(300, 310), 0))


@pytest.mark.parametrize("x_TF", [np.zeros((1, 2)), np.ones((100, 2)), np.eye(100)[:, :2]])
def test_nothing_is_tamed_without_a_range(x_TF: FloatArray) -> None:
    assert np.array_equal(tamed(x_TF), x_TF)


@pytest.mark.parametrize(
    ("lengths", "window"),
    [([107], 8), ([150], 38), ([5000], 128), ([100] * 50, 26), ([20] * 50, 8), ([5000, 9], 128)],
)
def test_windows_are_as_long_as_history_allows(lengths: list[int], window: int) -> None:
    plan = plan_of("series", 1, "default", {})
    fitting = plan.fitted_to(lengths)
    assert fitting.window == window
    assert all(view.judged <= view.window for view in fitting.views)
    assert whole_windows(lengths, window) >= 100
    whole = [view.judged == view.window for view in plan.views]
    assert [view.judged == view.window for view in fitting.views] == whole


def test_windows_that_somebody_wrote_down_stay() -> None:
    written = plan_of("series", 1, "default", {}, views=[{"window": 60}, {"window": 9}])
    assert written.fitted_to([130]) == written
    single = plan_of("series", 1, "vanilla", {}, 40)
    assert single.fitted_to([90]) == single


def test_too_little_history_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match="50 rows of 1 series hold 43 windows of 8 rows; training needs 100"):
        fitted([rows("white", 50, 1, 0)])


@pytest.mark.parametrize("kind", ["range", "standard", "robust"])
def test_each_kind_of_scaling_finds_a_spike(kind: ScalingKind) -> None:
    x_NF = rows("waves", 1500, 2, 3)
    x_NF[:, 1] = 1e6 + 1e3 * x_NF[:, 1]
    x_NF[1300:1303, 1] += 3e3
    detector = fitted([x_NF[:1000]], {"scaling": kind})
    assert detector.scaling.kind == kind
    for name in ("s0", "new"):
        score_N = detector.score_series(name, x_NF, [0])[0]
        assert score_N[1300:1303].max() > score_N[1100:1290].max()


def test_another_kind_of_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="option 'scaling' is 'minmax'; it takes one of: range, standard, robust"):
        plan_of("series", 1, "default", {"scaling": "minmax"})
