"""A shift in a stream: one incident until its level is accepted, whatever the polls, restarts and clocks."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.acceptance import COLUMNS
from pipeline.alert_settings import AlertSettings
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import ENDS
from pipeline.stream import StreamPipeline
from tests.pipeline.test_streams import PLACES, records_of, run, with_a_gap
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, Payload, lanes, payloads_of, series_rows

PLACE = PLACES["machines"]
POINTS, SHIFT, BACK, ACCEPT_AFTER = 700, 150, 450, 120
"""Points of each series: in all, before the shift, and until it ends; and those that make `accept_after`."""
BLOCK = 16


def shifted(names: Sequence[str] = ("a", "new")) -> list[Payload]:
    """Records of two series, of which training has seen one; both shift for 300 minutes, a spike among them."""
    values = series_rows(list(names), POINTS, 2, {"a": [400]})
    values[:, SHIFT:BACK] += 4
    return payloads_of(names, values)


RECORDS = records_of(shifted())


def pipeline(accept_after: float | None = 60.0 * ACCEPT_AFTER, delay: int = 0) -> StreamPipeline:
    asked = {"budget": "1 per day", "delay": delay, "accept_after": accept_after or "never"}
    alerts = AlertSettings.model_validate(asked)
    return lanes(SERIES.model_copy(update={"alerts": alerts}))[0].pipeline


def course(alerts: Sequence[Alert], series: str = "a") -> list[tuple[str, int]]:
    """Return (state, point) of a series' alerts."""
    own = [alert for alert in alerts if alert.series == series]
    return [(alert.state, (alert.event_ms - BEGIN_MS) // STEP_MS - HISTORY) for alert in own]


@pytest.mark.parametrize("delay", [0, 3])
def test_a_shift_is_one_incident_that_ends_when_its_level_is_accepted(delay: int) -> None:
    _, alerts = run(pipeline(delay=delay), PLACE, RECORDS, [])
    during = [(state, at) for state, at in course(alerts) if SHIFT - 5 <= at < BACK]
    opened = next(at for state, at in during if state == "opened")
    accepted = [at for state, at in during if state == "accepted"]
    assert SHIFT - delay <= opened <= SHIFT + 5
    assert len(accepted) == 1
    assert ACCEPT_AFTER - BLOCK <= accepted[0] - SHIFT <= ACCEPT_AFTER + 2 * BLOCK
    assert not [state for state, at in during if opened < at < accepted[0] and state in ENDS]
    # An anomaly on the new level is found; what lies on it is not one.
    again = [at for state, at in during if state == "opened" and at > accepted[0]]
    assert any(400 - delay <= at <= 403 for at in again)
    assert len(again) <= 2
    first = next(alert for alert in alerts if alert.state == "accepted" and alert.series == "a")
    incident = [alert for alert in alerts if alert.incident == first.incident]
    assert [alert.state for alert in incident][:: len(incident) - 1] == ["opened", "accepted"]
    assert first.score == max(alert.score for alert in incident)


def test_without_acceptance_the_shift_is_one_incident_as_long_as_it_lasts() -> None:
    _, alerts = run(pipeline(None), PLACE, RECORDS, [])
    during = [(state, at) for state, at in course(alerts) if SHIFT - 5 <= at <= BACK + 20]
    assert {state for state, _ in during} <= {"opened", "worsened", "resolved"}
    assert [state for state, _ in during][:: len(during) - 1] == ["opened", "resolved"]
    assert during[0][1] <= SHIFT + 5
    assert during[-1][1] >= BACK


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 2 * POINTS - 1), max_size=12))
def test_polls_do_not_matter(cuts: list[int]) -> None:
    expected_scores, expected = run(pipeline(), PLACE, RECORDS, [])
    scores, alerts = run(pipeline(), PLACE, RECORDS, cuts)
    assert scores == expected_scores
    assert sorted(alert.id for alert in alerts) == sorted(alert.id for alert in expected)


@pytest.mark.parametrize("at", [2 * SHIFT - 7, 2 * SHIFT + 101, 2 * SHIFT + 2 * ACCEPT_AFTER, 2 * BACK + 3])
def test_a_restart_half_way_changes_nothing(at: int) -> None:
    expected, through = run(pipeline(), PLACE, RECORDS, [at])
    first, second = pipeline(), pipeline()
    before, early = run(first, PLACE, RECORDS[:at], [])
    second.restore(PLACE, [first.snapshot(PLACE)])
    after, late = run(second, PLACE, RECORDS[at:], [])
    assert before | after == expected
    assert [alert.id for alert in [*early, *late]] == [alert.id for alert in through]


def test_a_checkpoint_of_a_version_without_acceptance_goes_on() -> None:
    at = 2 * 100
    old, new = pipeline(), pipeline()
    run(old, PLACE, RECORDS[:at], [])
    arrays = old.snapshot(PLACE)
    new.restore(
        PLACE, [{name: array for name, array in arrays.items() if name.removeprefix("tail.") not in COLUMNS}]
    )
    _, alerts = run(new, PLACE, RECORDS[at:], [])
    assert "accepted" in {state for state, _ in course(alerts)}
    # And back, as when the setting is changed to `never` later.
    again = pipeline(None)
    again.restore(PLACE, [new.snapshot(PLACE)])
    assert run(again, PLACE, RECORDS[at:], [])[0] == {}


def test_the_time_is_told_in_points_so_a_clock_that_jumps_accepts_nothing() -> None:
    """Ten days without records, or a clock set forward, are no ten days of a level."""
    at = 2 * (SHIFT + 40)
    jumped = records_of(with_a_gap(shifted(), at, 10 * 86_400_000))
    expected, _ = run(pipeline(), PLACE, RECORDS, [])
    found, alerts = run(pipeline(), PLACE, jumped, [])
    assert found == expected
    accepted = [alert.offset for alert in alerts if alert.state == "accepted" and alert.series == "a"]
    assert accepted[0] > at + BLOCK


def test_a_series_whose_interval_is_learned_on_the_way_accepts_by_it() -> None:
    states = course(run(pipeline(), PLACE, RECORDS, [])[1], "new")
    assert states
    arrays: Any = pipeline()
    run(arrays, PLACE, RECORDS, [])
    snapshot = arrays.snapshot(PLACE)
    index = json.loads(snapshot["names"].tobytes()).index("new")
    assert snapshot["interval_ms"][index] == STEP_MS
    assert np.isfinite(snapshot["tail.level"]).all()
