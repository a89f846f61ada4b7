"""The few errors that are kept say bit for bit what all of a window's rows would."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mapping import Reach, reach_of
from models.views import ViewConfig
from pipeline.stages.fading import FadingErrors, kept_errors

CPU = torch.device("cpu")
NONE = float("-inf")


def reach(window: int, fades: list[float | None]) -> Reach:
    return reach_of([ViewConfig("linear", {}, window, judged=1, fade=fade) for fade in fades], 0, CPU)


class Row(NamedTuple):
    slot: int
    errors: tuple[float, ...]


def expected(rows: list[Row], looks: Reach) -> torch.Tensor:
    """Return what is said of each row by the maximum over all errors of its series."""
    views, past = len(looks.fading_VR), dict[int, list[tuple[float, ...]]]()
    found = []
    for row in rows:
        errors = past.setdefault(row.slot, [(NONE,) * views] * looks.behind)
        errors.append(row.errors)
        error_BVR = torch.tensor(errors[-looks.behind - 1 :]).T[None]
        found.append(looks.point_errors(error_BVR)[0])
    return torch.stack(found)


def followed(fading: FadingErrors, rows: list[Row]) -> torch.Tensor:
    """Take rows as one round does: sorted by slot; return what is said of each, in their own order."""
    slot_M = np.array([row.slot for row in rows], np.int64)
    order_M = np.argsort(slot_M, kind="stable")
    error_MV = torch.tensor([row.errors for row in rows])[order_M]
    found_MV = torch.empty_like(error_MV)
    found_MV[order_M] = fading.follow(slot_M[order_M], error_MV)
    return found_MV


def moved(fading: FadingErrors, looks: Reach, slots: int, rows: int) -> FadingErrors:
    """Return other errors that took over these through their rows, as a checkpoint holds them."""
    other, at = FadingErrors(looks, CPU), np.arange(slots)
    other.grow(slots)
    depth = looks.behind + 1
    end_S = np.full(slots, min(rows, depth))
    rows_SDV = np.empty((slots, depth, len(looks.fading_VR)), np.float32)
    fading.rows(at, end_S, rows_SDV)
    other.put(at, end_S, rows_SDV)
    return other


SLOTS = 3
errors = st.one_of(st.sampled_from([NONE, 0.0, -1.0, 0.5]), st.floats(-9, 9, width=32))
fades = st.lists(st.sampled_from([None, 0.0, 0.01, 0.1, 1.0]), min_size=1, max_size=2).filter(
    lambda each: any(fade is not None for fade in each)
)


@given(
    data=st.data(),
    window=st.integers(2, 12),
    fades=fades,
    cuts=st.lists(st.integers(1, 79), max_size=4),
    moves=st.booleans(),
)
def test_what_is_kept_says_what_all_would(
    data: st.DataObject, window: int, fades: list[float | None], cuts: list[int], moves: bool
) -> None:
    looks = reach(window, fades)
    row = st.builds(Row, st.integers(0, SLOTS - 1), st.tuples(*[errors] * len(fades)))
    rows = data.draw(st.lists(row, min_size=1, max_size=80))
    fading = FadingErrors(looks, CPU)
    fading.grow(SLOTS)
    found = []
    for low, high in pairwise([0, *sorted({cut for cut in cuts if cut < len(rows)}), len(rows)]):
        found.append(followed(fading, rows[low:high]))
        if moves:
            fading = moved(fading, looks, SLOTS, looks.behind + 1)
    assert torch.equal(torch.cat(found), expected(rows, looks))


@pytest.mark.parametrize("fade", [0.013, 0.1, 0.7])
def test_falling_errors_need_the_wide_store_and_leave_it(fade: float) -> None:
    looks = reach(64, [fade, 0.3])
    fading = FadingErrors(looks, CPU)
    fading.grow(1)
    # One slope that fades slower than the errors fall, so that all count, and a rise that ends it.
    falling = [Row(0, (float(-2 * fade * at), 0.0)) for at in range(100)]
    rows = [*falling, *(Row(0, (float(at), 1.0)) for at in range(10))]
    found, rows_SDV = [], np.empty((1, 64, 2), np.float32)
    for at, row in enumerate(rows):
        found.append(followed(fading, [row]))
        fading.rows(np.array([0]), np.array([64]), rows_SDV)
        kept = int((rows_SDV > NONE)[:, :, 0].sum())
        assert kept == (min(at + 1, 63) if at < 100 else 1)
    assert kept_errors(2) < 63
    assert torch.equal(torch.cat(found), expected(rows, looks))


def test_a_slot_that_was_cleared_remembers_nothing() -> None:
    looks = reach(16, [0.1])
    fading = FadingErrors(looks, CPU)
    fading.grow(2)
    for at in range(12):
        followed(fading, [Row(0, (-float(at),)), Row(1, (5.0,))])
    fading.clear(np.array([0]))
    assert followed(fading, [Row(0, (-50.0,)), Row(1, (1.0,))]).flatten().tolist() == pytest.approx([-50.0, 4.9])
