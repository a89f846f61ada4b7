"""Values to normal scores and back."""

import numpy as np
import pytest

from models.marginals import Marginal, Marginals

RANDOM = np.random.default_rng(1)


@pytest.mark.parametrize("rows", [50, 3_000, 30_000])
def test_values_come_back(rows: int) -> None:
    x_N = RANDOM.lognormal(size=rows)
    found = Marginal.of(x_N)
    back_N = found.values(found.scores(x_N))
    if rows < 8_192:
        assert back_N.tolist() == x_N.tolist()
    else:
        assert np.abs(back_N - x_N).max() <= 1.01 * np.diff(np.sort(x_N)).max() * rows / 8_192


def test_what_is_drawn_is_spread_like_the_original() -> None:
    """A spike of zeros, a long tail, and no value outside."""
    x_N = np.where(RANDOM.random(4_000) < 0.3, 0.0, RANDOM.lognormal(sigma=2, size=4_000))
    drawn_N = Marginal.of(x_N).values(RANDOM.standard_normal(20_000))
    assert (drawn_N == 0).mean() == pytest.approx((x_N == 0).mean(), abs=0.02)
    assert np.quantile(drawn_N, [0.5, 0.9, 0.99]) == pytest.approx(np.quantile(x_N, [0.5, 0.9, 0.99]), rel=0.15)
    assert drawn_N.min() >= x_N.min()
    assert drawn_N.max() <= x_N.max()


def test_values_between_those_seen_are_new() -> None:
    x_N = RANDOM.normal(size=500)
    drawn_N = Marginal.of(x_N).values(RANDOM.standard_normal(2_000))
    assert np.isin(drawn_N, x_N).mean() < 0.02


def test_each_feature_has_its_own() -> None:
    x_NF = np.column_stack([RANDOM.normal(5, 1, 300), RANDOM.integers(0, 3, 300)])
    found = Marginals.of(x_NF)
    assert found.values(found.scores(x_NF)).tolist() == x_NF.tolist()
    assert np.abs(found.scores(x_NF).mean(axis=0)).max() < 0.1
