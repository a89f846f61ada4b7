"""The grid that values are learned to lie on, and that made-up ones are put on."""

import numpy as np
import pytest

from models.arrays import FloatArray
from models.grid import Grid

RANDOM = np.random.default_rng(0)
WIDE = np.linspace(-3, 12, 1_000) + 0.001


@pytest.mark.parametrize(
    ("values", "grid", "step"),
    [
        (RANDOM.integers(0, 5_000, 2_000).astype(float), "step", 1.0),
        (4.0 * RANDOM.integers(0, 5_000, 2_000), "step", 4.0),
        (np.round(RANDOM.normal(10, 3, 2_000), 2), "step", 0.01),
        (RANDOM.integers(0, 200, 2_000) / 199, "step", 1 / 199),
        (RANDOM.choice([0.0, 1.0, 7.5], 500), "levels", None),
        (np.full(50, 3.25), "levels", None),
        (RANDOM.normal(size=2_000), "continuous", None),
    ],
    ids=["whole", "fours", "cents", "scaled", "few", "one", "any"],
)
def test_a_grid_is_told_by_its_values(values: FloatArray, grid: str, step: float | None) -> None:
    found = Grid.of(values)
    assert found.told["grid"] == grid
    assert found.told.get("step") == (None if step is None else pytest.approx(step))
    # What was seen stays as it is, to the last bit.
    assert found.snapped(values).tolist() == values.tolist()
    put = found.snapped(WIDE * values.std() + values.mean())
    assert put.min() >= values.min()
    assert put.max() <= values.max()
    if step is not None:
        place = (put - values.min()) / step
        assert np.abs(place - np.rint(place)).max() < 1e-6
    if grid == "levels":
        assert set(put.tolist()) <= set(values.tolist())


def test_cents_are_those_numbers_and_not_nearly() -> None:
    values = np.round(np.linspace(0.1, 99.9, 999), 2)
    put = Grid.of(values).snapped(np.linspace(0, 100, 4_001))
    assert put.tolist() == np.round(put, 2).tolist()


def test_a_value_that_is_there_often_comes_back_to_the_last_bit() -> None:
    values = np.append(np.zeros(40), RANDOM.normal(3, 1, 2_000))
    put = Grid.of(values).snapped(np.array([5.5e-17, 1e-6, 2.0]))
    assert put.tolist() == [0.0, 1e-6, 2.0]


def test_anomalies_keep_the_step_and_may_leave_the_range() -> None:
    found = Grid.of(np.arange(500.0))
    assert found.stepped(np.array([512.3, -7.6])).tolist() == [512.0, -8.0]


def test_repeated_values_without_an_order_are_all_there_are() -> None:
    known = np.sort(RANDOM.normal(size=80))
    values = RANDOM.choice(known, 4_000)
    put = Grid.of(values).snapped(np.linspace(-4, 4, 500))
    assert set(put.tolist()) <= set(values.tolist())
