"""From windows to points: against a reference that is slow and obvious, and what may be looked at ahead."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mapping import Delay, reach_of
from models.views import ViewConfig

CPU = torch.device("cpu")


def view(window: int, judged: int, fade: float | None) -> ViewConfig:
    return ViewConfig("linear", {}, window, judged=judged, fade=fade)


@st.composite
def some_views(draw: st.DrawFn) -> list[ViewConfig]:
    def one() -> ViewConfig:
        window = draw(st.integers(1, 9))
        fade = draw(st.none() | st.floats(0, 2, width=32))
        return view(window, draw(st.integers(1, window)), fade)

    return [one() for _ in range(draw(st.integers(1, 3)))]


@st.composite
def series_errors(draw: st.DrawFn, views: Sequence[ViewConfig], least: int = 1) -> torch.Tensor:
    """Window errors of a series; some windows were not read."""
    error = st.floats(-30, 30, width=32) | st.just(-math.inf)
    rows = draw(st.integers(least, 25))
    return torch.tensor([[draw(error) for _ in views] for _ in range(rows)], dtype=torch.float32)


DELAYS = st.none() | st.integers(0, 12)


def slow(views: Sequence[ViewConfig], delay: Delay, error_NV: torch.Tensor) -> list[list[float]]:
    """Ask of each row and each window what the window says of it; the largest counts."""
    span = max(each.window for each in views) - 1
    ahead = span if delay is None else min(delay, span)
    found = []
    for row in range(len(error_NV)):
        found.append([-math.inf] * len(views))
        for v, each in enumerate(views):
            for end in range(max(row - span, 0), min(row + ahead + 1, len(error_NV))):
                first_judged = end - each.judged + 1
                away = row - end if row > end else max(first_judged - row, 0)
                if away == 0:
                    lost = 0.0
                elif each.fade is None:
                    continue
                else:
                    lost = away * each.fade
                found[-1][v] = max(found[-1][v], float(error_NV[end, v]) - lost)
    return found


@settings(deadline=None)
@given(data=st.data(), views=some_views(), delay=DELAYS)
def test_points_are_those_of_the_reference(data: st.DataObject, views: list[ViewConfig], delay: Delay) -> None:
    error_NV = data.draw(series_errors(views))
    found_NV = reach_of(views, delay, CPU).point_errors_of_series(error_NV)
    torch.testing.assert_close(found_NV, torch.tensor(slow(views, delay, error_NV)), atol=1e-4, rtol=1e-5)


@settings(deadline=None)
@given(data=st.data(), views=some_views(), delay=DELAYS)
def test_the_newest_row_is_judged_as_in_a_whole_series(
    data: st.DataObject, views: list[ViewConfig], delay: Delay
) -> None:
    reach = reach_of(views, delay, CPU)
    near = reach.behind + 1 + reach.ahead
    error_NV = data.draw(series_errors(views, near))
    whole_NV = reach.point_errors_of_series(error_NV)
    for end in range(near, len(error_NV) + 1):
        one_1V = reach.point_errors(error_NV[end - near : end].T[None])
        torch.testing.assert_close(one_1V[0], whole_NV[end - 1 - reach.ahead], atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(data=st.data(), views=some_views(), delay=st.none() | st.integers(0, 12), row=st.integers(0, 24))
def test_nothing_further_ahead_than_the_delay_counts(
    data: st.DataObject, views: list[ViewConfig], delay: Delay, row: int
) -> None:
    """Neither than one longest window; a delay of 0 is causal."""
    error_NV = data.draw(series_errors(views))
    row = min(row, len(error_NV) - 1)
    longest = max(each.window for each in views) - 1
    seen = row + (longest if delay is None else min(delay, longest))
    changed_NV = error_NV.clone()
    changed_NV[seen + 1 :] = 1000
    reach = reach_of(views, delay, CPU)
    assert reach.ahead == seen - row
    before, after = (reach.point_errors_of_series(each)[: row + 1] for each in (error_NV, changed_NV))
    assert torch.equal(before, after)


@pytest.mark.parametrize("delay", [0, 1, 4, None])
def test_a_window_far_enough_ahead_is_heard_once_the_delay_allows_it(delay: Delay) -> None:
    views = [view(9, 3, 0.5)]
    error_NV = torch.full((20, 1), -10.0)
    error_NV[14] = 0.0
    found = reach_of(views, delay, CPU).point_errors_of_series(error_NV)[:, 0].tolist()
    # The window judged rows 12 to 14; rows before fade by half a unit each, as far as they may look ahead.
    expected = {
        0: [-10.0] * 4,
        1: [-10.0, -10.0, -10.0, 0.0],
        4: [-1.0, -0.5, 0.0, 0.0],
        None: [-1.0, -0.5, 0.0, 0.0],
    }
    assert found[10:14] == expected[delay]
    assert found[14:18] == [0.0, -0.5, -1.0, -1.5]


def test_without_a_memory_nothing_before_is_looked_at() -> None:
    assert reach_of([view(9, 1, None), view(5, 2, None)], 0, CPU).behind == 0
    assert reach_of([view(9, 1, None), view(5, 2, 0.1)], 0, CPU).behind == 8
    assert reach_of([view(9, 1, None)], 40, CPU).ahead == 8
