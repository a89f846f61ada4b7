"""Exact tails of small counts."""

import math

import numpy as np
import pytest

from pipeline.chance import binomial_at_least, most_by_chance, poisson_at_least, sign_test


@pytest.mark.parametrize("mean", [0.1, 1.0, 20.0])
def test_counts_of_rare_things_are_poissons(mean: float) -> None:
    drawn = np.random.default_rng(0).poisson(mean, 200_000)
    for count in (0, 1, 2, round(mean), round(2 * mean)):
        assert poisson_at_least(count, mean) == pytest.approx((drawn >= count).mean(), abs=4e-3)
    assert poisson_at_least(2, 0.5) == pytest.approx(1 - 1.5 * math.exp(-0.5))
    assert poisson_at_least(1, 0.0) == 0.0


@pytest.mark.parametrize(("mean", "most"), [(0.0, 0), (0.01, 0), (0.02, 1), (1.25, 4), (20.0, 31), (1e3, 1074)])
def test_what_chance_makes_of_a_mean(mean: float, most: int) -> None:
    assert most_by_chance(mean, 0.01) == most
    assert poisson_at_least(most, mean) >= 0.01 > poisson_at_least(most + 1, mean)


@pytest.mark.timeout(60)
def test_a_generous_budget_is_no_long_search() -> None:
    """As of one incident a minute in two hundred thousand seconds; near the normal approximation."""
    assert most_by_chance(20_000.0, 0.01) == pytest.approx(20_000 + 2.326 * math.sqrt(20_000), rel=1e-4)


def test_fair_coins() -> None:
    assert sign_test(0, 0) == sign_test(0, 9) == 1.0
    assert sign_test(7, 0) == pytest.approx(2.0**-7)
    assert sign_test(9, 1) == pytest.approx(11 / 1024)
    assert sign_test(500, 500) == pytest.approx(0.5126, abs=1e-4)
    assert sign_test(3000, 1000) == pytest.approx(0.0, abs=1e-12)


def test_successes_of_a_share() -> None:
    assert binomial_at_least(2, 2, 0.3) == pytest.approx(0.09)
    assert binomial_at_least(1, 2, 0.3) == pytest.approx(0.51)
    assert binomial_at_least(3, 2, 0.3) == 0.0
