"""The online tail follows a series, and no poll changes it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.by_series import BySeries
from models.calibration import DECIBEL
from models.online_tail import SERIES_PACE, STREAM_PACE, OnlineTail, Pace, Usual, quantiles

CPU = torch.device("cpu")


def tail_of(pace: Pace = SERIES_PACE, **initial: Usual) -> OnlineTail:
    tail = OnlineTail(CPU, pace, BySeries.of(initial))
    tail.begin(np.arange(4), ["a", "b", "c", "d"])
    return tail


def score(tail: OnlineTail, slots: list[int], surprise: list[float]) -> list[float]:
    order = np.argsort(slots, kind="stable")
    scored = tail.score(np.array(slots, np.int64)[order], torch.tensor(surprise, dtype=torch.float32)[order])
    return [float(each) for each in scored[np.argsort(order)]]


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


@pytest.mark.parametrize(("factor", "shift"), [(1, 0), (3, 0), (1, 15), (0.5, 2), (0.15, 0)])
def test_each_series_is_judged_by_its_own_measure(factor: float, shift: float) -> None:
    """After a while about one normal point in a hundred has a score over 20, whatever its surprise is like."""
    random = np.random.default_rng(1)
    surprise = (random.exponential(DECIBEL, 40_000) * factor + shift).tolist()
    scores = np.array(score(tail_of(), [0] * len(surprise), surprise))[10_000:]
    assert 0.004 < (scores > 20).mean() < 0.025
    assert np.median(scores) == pytest.approx(DECIBEL * np.log(2), abs=1.0)


def test_strange_points_that_come_in_clusters_are_counted_as_they_are() -> None:
    """Were only a few of a block counted, the scores of noise in clusters would be too high."""
    surprise = np.repeat(np.random.default_rng(4).exponential(DECIBEL, 8_000), 6).tolist()
    scores = np.array(score(tail_of(), [0] * len(surprise), surprise))[10_000:]
    assert 0.005 < (scores > 20).mean() < 0.02


def test_a_stream_whose_tail_is_heavier_than_in_training_keeps_near_its_budget() -> None:
    surprise = np.random.default_rng(7).exponential(DECIBEL, 300_000)
    heavier = np.where(surprise > 20, 20 + 1.6 * (surprise - 20), surprise)
    assert (heavier > 30).mean() > 2.0 / 1000
    tail = tail_of(STREAM_PACE)
    scores = tail.score(np.zeros(len(heavier), np.int64), torch.from_numpy(heavier).float())
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
