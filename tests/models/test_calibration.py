"""A score means what it says; the online tail follows a series and no poll changes it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import (
    CLUSTER_LEVELS,
    DECIBEL,
    SERIES_PACE,
    STREAM_PACE,
    OnlineTail,
    Pace,
    Usual,
    _between,
    alert_threshold,
    cluster_sizes,
    fit_pooled_tail,
    quantiles,
)

CPU = torch.device("cpu")


def tail_of(pace: Pace = SERIES_PACE, **initial: Usual) -> OnlineTail:
    tail = OnlineTail(CPU, pace, initial)
    tail.begin(np.arange(4), ["a", "b", "c", "d"])
    return tail


def score(tail: OnlineTail, slots: list[int], surprise: list[float]) -> list[float]:
    order = np.argsort(slots, kind="stable")
    scored = tail.score(torch.tensor(slots)[order], torch.tensor(surprise, dtype=torch.float32)[order])
    return [float(each) for each in scored[np.argsort(order)]]


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


@given(
    points=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 80, width=32)), max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_polls_do_not_matter(points: list[tuple[int, float]], cuts: list[int]) -> None:
    slots, surprise = [slot for slot, _ in points], [value for _, value in points]
    whole = score(tail_of(), slots, surprise)
    tail, pieces = tail_of(), []
    edges = [0, *sorted(cut for cut in cuts if cut <= len(points)), len(points)]
    for low, high in pairwise(edges):
        pieces += score(tail, slots[low:high], surprise[low:high])
    assert pieces == whole


@pytest.mark.parametrize(("factor", "shift"), [(1, 0), (3, 0), (1, 15), (0.5, 2)])
def test_each_series_is_judged_by_its_own_measure(factor: float, shift: float) -> None:
    """After a while about one normal point in a hundred has a score over 20, whatever its surprise is like."""
    random = np.random.default_rng(1)
    surprise = (random.exponential(DECIBEL, 40_000) * factor + shift).tolist()
    scores = np.array(score(tail_of(), [0] * len(surprise), surprise))[10_000:]
    assert 0.004 < (scores > 20).mean() < 0.025
    assert np.median(scores) == pytest.approx(DECIBEL * np.log(2), abs=1.0)


def test_a_stream_whose_tail_is_heavier_than_in_training_keeps_near_its_budget() -> None:
    surprise = np.random.default_rng(7).exponential(DECIBEL, 300_000)
    heavier = np.where(surprise > 20, 20 + 1.6 * (surprise - 20), surprise)
    assert (heavier > 30).mean() > 2.0 / 1000
    tail = tail_of(STREAM_PACE)
    scores = tail.score(torch.zeros(len(heavier), dtype=torch.int64), torch.from_numpy(heavier).float())
    assert (scores >= 30).double().mean() < 1.45 / 1000


def test_a_short_outage_teaches_little_a_level_that_stays_is_learned() -> None:
    random = np.random.default_rng(2)
    calm = random.exponential(DECIBEL, 3000).tolist()
    tail = tail_of()
    score(tail, [0] * 3000, calm)
    outage = score(tail, [0] * 48, [60.0] * 48)
    assert min(outage) > 35
    stays = score(tail, [0] * 3000, [60.0 + each for each in random.exponential(DECIBEL, 3000)])
    assert np.median(stays[-500:]) < 10


def test_state_moves_with_its_series() -> None:
    random = np.random.default_rng(3)
    first, second = tail_of(), tail_of()
    points = (random.exponential(8, 100)).tolist()
    score(first, [1] * 100, points)
    second.scatter(np.array([3]), first.gather(np.array([1])))
    assert score(first, [1] * 50, points[:50]) == score(second, [3] * 50, points[:50])


def test_state_is_small() -> None:
    tail = tail_of()
    one = sum(column.nbytes for column in tail.gather(np.array([0])).values())
    assert one <= 128


def test_training_says_where_a_series_starts() -> None:
    random = np.random.default_rng(4)
    median, gap, far = quantiles(random.exponential(2 * DECIBEL, 20_000), SERIES_PACE)
    assert median == pytest.approx(2 * DECIBEL * np.log(2), rel=0.05)
    assert gap == pytest.approx(2 * SERIES_PACE.gap, rel=0.1)
    assert far == pytest.approx(2 * DECIBEL * np.log(8), rel=0.15)
    few = quantiles(np.full(5, 500.0), STREAM_PACE)
    assert few[0] < 20


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
    assert own[1][-1] == (3 + 5 * pooled[-1]) / (1 + 5)
    assert cluster_sizes([np.zeros(5)])[0] == (1.0,) * len(CLUSTER_LEVELS)


def test_rows_are_interpolated_as_one_by_one() -> None:
    random = np.random.default_rng(0)
    known_SK = np.maximum.accumulate(random.integers(0, 9, (500, 7)).astype(float), axis=1)
    values_K = np.array([0.0, *CLUSTER_LEVELS])
    for at_S in (random.uniform(-2, 11, 500), random.integers(-1, 11, 500).astype(float)):
        one_by_one = [np.interp(at, known_K, values_K) for at, known_K in zip(at_S, known_SK, strict=True)]
        np.testing.assert_array_equal(_between(at_S, known_SK, values_K), one_by_one)
