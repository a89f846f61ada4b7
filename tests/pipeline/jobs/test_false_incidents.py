"""False incidents: opened by the production stage, outside labelled spans and their surroundings."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.budgets import parse_budget
from pipeline.jobs.false_incidents import FalseIncidents, false_incidents, widened

MINUTE_MS = 60_000.0


def count(
    hot: list[int], *, window: int = 10, label: slice = slice(500, 520), accepted: Sequence[int] = ()
) -> FalseIncidents:
    """Return what is counted of 1,000 points a minute apart that are quiet but for `hot`."""
    label_N = np.zeros(1000, bool)
    label_N[label] = True
    score_N = np.zeros(1000)
    score_N[hot] = 40
    return false_incidents(
        (MINUTE_MS * np.arange(1000)).astype(np.int64),
        score_N,
        label_N,
        threshold=30.0,
        window=window,
        budget=parse_budget("1 per day"),
        interval_ms=MINUTE_MS,
        accepted_N=np.isin(np.arange(1000), accepted),
    )


def test_spans_are_widened_on_both_sides_and_end_with_the_series() -> None:
    label_N = np.zeros(30, bool)
    label_N[[1, 2, 12, 16, 28]] = True
    assert np.flatnonzero(~widened(label_N, 3)).tolist() == [6, 7, 8, 20, 21, 22, 23, 24]
    assert widened(np.zeros(5, bool), 3).tolist() == [False] * 5


@pytest.mark.parametrize(
    ("hot", "false"),
    [
        ([510], 0),
        ([490], 0),
        ([529], 0),
        ([489], 1),
        ([530], 1),
        ([100, 104, 108], 1),
        ([100, 106], 2),
        ([100, 130], 2),
        ([510, 535], 1),
        ([100, 510, 900], 2),
    ],
)
def test_an_incident_is_false_where_it_opens_away_from_every_span(hot: list[int], false: int) -> None:
    assert count(hot).opened == false


def test_one_that_opens_in_the_span_and_goes_on_is_no_false_one() -> None:
    assert count(list(range(515, 600))).opened == 0
    assert count(list(range(480, 510))).opened == 1


def test_an_incident_whose_level_is_accepted_is_over() -> None:
    assert count(list(range(100, 150)), accepted=[140]).opened == 2
    assert count(list(range(100, 141)), accepted=[140]).opened == 1


def test_the_budget_allows_what_fits_into_the_quiet_rows() -> None:
    counted = count([100, 300, 900])
    assert counted.quiet_rows == 1000 - 40
    assert counted.allowed == pytest.approx(960 / 1440)
    assert counted.per_week(MINUTE_MS) == pytest.approx(3 / (960 / (7 * 1440)))
    assert count([100], window=600).per_week(MINUTE_MS) == 0.0
