"""A score means what it says, and so does a threshold."""

import numpy as np
import pytest
import torch

from models.calibration import CLUSTER_LEVELS, _between, alert_threshold, cluster_sizes, fit_pooled_tail


@pytest.mark.parametrize("decades", [1, 2, 3])
def test_surprise_is_a_tail_probability(decades: int) -> None:
    errors = np.random.default_rng(0).exponential(0.3, 200_000)
    tail = fit_pooled_tail(errors[:100_000])
    surprise = tail.surprise(torch.from_numpy(errors[100_000:]).float()).numpy()
    assert (surprise > 10 * decades).mean() == pytest.approx(10.0**-decades, rel=0.3)


def test_surprise_rises_with_the_error_and_stays_finite() -> None:
    for errors in (np.random.default_rng(0).lognormal(0, 2, 500), np.ones(100), np.zeros(60)):
        surprise = fit_pooled_tail(errors).surprise(torch.linspace(0, 1e6, 5000))
        assert torch.isfinite(surprise).all()
        assert (surprise.diff() >= 0).all()


def test_one_huge_error_does_not_set_the_scale() -> None:
    errors = np.random.default_rng(0).exponential(1, 5000)
    clean, spoilt = fit_pooled_tail(errors), fit_pooled_tail(np.append(errors, [1e6] * 5))
    asked = torch.tensor([8.0, 12.0])
    torch.testing.assert_close(clean.surprise(asked), spoilt.surprise(asked), rtol=0.1, atol=0)


def test_the_threshold_follows_from_the_budget() -> None:
    levels = len(CLUSTER_LEVELS)
    assert alert_threshold(np.array([1000.0]), [1.0] * levels)[0] == pytest.approx(30, abs=0.05)
    assert alert_threshold(np.array([1000.0]), [10.0] * levels)[0] == pytest.approx(20, abs=0.05)
    assert alert_threshold(np.array([1.0]), [50.0] * levels)[0] == 10
    # At 20 a tenth of the points that it takes at 10: the threshold lies where the product is the budget.
    assert alert_threshold(np.array([1000.0]), [20.0, 18.0, 14.0, 10.0, 5.0, 1.0])[0] == pytest.approx(20, abs=0.05)


def test_points_of_one_incident_make_one_cluster() -> None:
    scores = np.zeros(100)
    scores[[10, 12, 14, 50, 51, 90]] = 40
    # Beside five pretended single points.
    pooled, own = cluster_sizes([scores, scores[:20]])
    assert pooled[-1] == (6 + 3 + 5) / (3 + 1 + 5)
    assert own[1][0] == (3 + 5 * pooled[0]) / (1 + 5)
    # Of the next level as many as at this one are expected.
    assert own[1][1] == pytest.approx((3 + 5 * own[1][0]) / (1 + 5))
    assert cluster_sizes([np.zeros(5)])[0] == (1.0,) * len(CLUSTER_LEVELS)


def test_rows_are_interpolated_as_one_by_one() -> None:
    random = np.random.default_rng(0)
    known_SK = np.maximum.accumulate(random.integers(0, 9, (500, 7)).astype(float), axis=1)
    values_K = np.array([0.0, *CLUSTER_LEVELS])
    for at_S in (random.uniform(-2, 11, 500), random.integers(-1, 11, 500).astype(float)):
        one_by_one = [np.interp(at, known_K, values_K) for at, known_K in zip(at_S, known_SK, strict=True)]
        np.testing.assert_array_equal(_between(at_S, known_SK, values_K), one_by_one)
