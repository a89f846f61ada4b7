"""Drift is found on slow shifts, on an outage it is not, and without drift at the stated rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arrays import FloatArray
from pipeline.drift import EARLIER, NEWEST, Drift, drift_of, level_of

DAY_S = 86_400
LEVEL = level_of(DAY_S)
SEEDS = st.integers(0, 2**32 - 1)


def medians(seed: int, series: int = 12, common: float = 0.0) -> FloatArray:
    """Return medians of scores of a stationary stream; `common`: how much its series have in common."""
    random = np.random.default_rng(seed)
    own = random.standard_normal((series, EARLIER + NEWEST))
    shared = random.standard_normal(EARLIER + NEWEST)
    level_S1 = random.uniform(1, 6, (series, 1))
    median_SB: FloatArray = level_S1 + 0.4 * (np.sqrt(1 - common) * own + np.sqrt(common) * shared)
    return median_SB


def struck(median_SB: FloatArray, begin: int, days: int) -> FloatArray:
    """Put an outage in, of some height between 3 and 300."""
    median_SB[:, begin : begin + days] += np.random.default_rng(begin).uniform(3, 300)
    return median_SB


def found(median_SB: FloatArray, level: float = LEVEL) -> Drift:
    return drift_of(median_SB[:, :EARLIER], median_SB[:, EARLIER:], level)


@pytest.mark.parametrize("common", [0.0, 0.9])
@pytest.mark.parametrize("series", [1, 12])
def test_without_drift_the_chance_is_the_stated_one(series: int, common: float) -> None:
    """However much the series have in common: 1,500 streams each, beside a level that so few can show."""
    chances = np.array([found(medians(seed, series, common)).probability for seed in range(1500)])
    for level in (0.5, 0.1, 0.02):
        spread = np.sqrt(level * (1 - level) / len(chances))
        assert abs((chances <= level).mean() - level) < 4 * spread + 0.002


def test_a_look_a_day_finds_drift_in_one_of_twenty_years() -> None:
    assert pytest.approx(0.05) == 365 * level_of(DAY_S)
    assert pytest.approx(0.05) == 52.142857 * level_of(7 * DAY_S)


def test_stationary_streams_have_no_drift_and_slow_shifts_are_found() -> None:
    slow = np.linspace(0, 4, EARLIER + NEWEST)
    assert not any(found(medians(seed)).drifted for seed in range(300))
    assert sum(found(medians(seed) + slow).drifted for seed in range(100)) >= 95
    assert sum(found(medians(seed) - slow).drifted for seed in range(100)) >= 95


@pytest.mark.parametrize(("days", "share"), [(3, 0), (4, 0.01), (5, 0.07)])
def test_an_outage_in_the_newest_days_is_taken_for_drift_as_often_as_stated(days: int, share: float) -> None:
    taken = 0
    for seed in range(1000):
        begin = EARLIER + seed % (NEWEST - days + 1)
        taken += found(struck(medians(seed), begin, days)).drifted
    assert taken / 1000 == pytest.approx(share, abs=4 * np.sqrt(share / 1000))


def test_an_outage_in_the_earlier_days_hides_and_shows_nothing() -> None:
    for seed in range(300):
        median_SB = struck(medians(seed), seed % (EARLIER - 3), 1 + seed % 3)
        assert not found(median_SB).drifted
        median_SB[:, EARLIER:] += 400
        assert found(median_SB).drifted


@given(SEEDS)
def test_a_shift_for_good_in_a_part_of_the_series_is_found(seed: int) -> None:
    median_SB = medians(seed, 40)
    median_SB[:20, EARLIER:] += 6
    told = found(median_SB)
    assert told.drifted
    assert told.shifted is not None
    assert 0.4 < told.shifted < 0.7


def test_a_shift_that_is_certain_and_small_is_none() -> None:
    median_SB = np.full((5, EARLIER + NEWEST), 3.0)
    median_SB[:, EARLIER:] += 0.9
    told = found(median_SB)
    assert not told.drifted
    assert told.probability is not None
    assert told.probability < LEVEL
    median_SB[:, EARLIER:] += 0.2
    assert found(median_SB).drifted


@given(SEEDS, st.floats(0.1, 10), st.floats(-20, 20))
def test_only_the_order_of_blocks_counts_for_the_chance(seed: int, scale: float, offset: float) -> None:
    median_SB = medians(seed)
    assert found(median_SB).probability == pytest.approx(found(scale * median_SB + offset).probability, rel=1e-9)


def test_series_that_are_not_there_are_left_out() -> None:
    median_SB = medians(3)
    whole = found(median_SB)
    some = np.vstack([median_SB, np.full(EARLIER + NEWEST, np.nan)])
    assert found(some) == whole
    gone = np.full((2, EARLIER + NEWEST), np.nan)
    assert found(gone) == Drift(False, "no series has rows in most of the blocks", level=LEVEL)
    assert not found(np.empty((0, EARLIER + NEWEST))).drifted
    holes = medians(4)
    holes[:, [2, 17]] = np.nan
    assert found(holes).series == 12


def test_constant_scores_are_no_drift() -> None:
    told = found(np.ones((4, EARLIER + NEWEST)))
    assert (told.drifted, told.probability, told.shifted) == (False, 1.0, 0.0)
