"""The course of an incident, whatever the polls; ids that anyone can derive again."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import LOWEST_THRESHOLD
from pipeline.protocols import TopicPartition
from pipeline.stages.incidents import (
    LEAST_BOUND,
    Incidents,
    OpenIncident,
    Stops,
    Transition,
    derived_id,
    severity_of,
)
from pipeline.stages.series import Points
from pipeline.stages.silence import NO_MORE, Quiet

PLACE = TopicPartition("metrics", 0)
NAN = float("nan")


def points(scored: Sequence[tuple[int, float]], first_offset: int = 0) -> tuple[Points, np.ndarray]:
    """Points as (slot, score), sorted by slot as the series stage sorts them."""
    slot_N = np.array([slot for slot, _ in scored], np.int64)
    order = np.argsort(slot_N, kind="stable")
    offset_N = np.arange(first_offset, first_offset + len(scored))[order]
    held = np.zeros(len(scored), bool)
    made = Points(slot_N[order], offset_N, offset_N * 10, np.zeros((len(scored), 1)), held, offset_N, 0 * offset_N)
    return made, np.array([score for _, score in scored], float)[order]


def follow(
    incidents: Incidents,
    scored: Sequence[tuple[int, float]],
    first_offset: int = 0,
    accepted: Sequence[int] = (),
    stops: Stops | None = None,
) -> list[Transition]:
    made, score_M = points(scored, first_offset)
    accepted_M = np.isin(made.offset_M, accepted)
    return incidents.follow(
        made, score_M, np.full(len(made), 30.0), ["a", "b", "c"], [PLACE] * 3, accepted_M, stops
    )


def test_an_incident_opens_worsens_and_is_resolved() -> None:
    incidents = Incidents("machines", quiet_points=2)
    scores = [NAN, 29.9, 30.0, 35, 20, 41, 45, 20, NAN, 20, 50]
    found = follow(incidents, [(0, score) for score in scores])
    assert [(each.position, each.state, each.score) for each in found] == [
        (2, "opened", 30.0),
        (5, "worsened", 41.0),
        (9, "resolved", 45.0),
        (10, "opened", 50.0),
    ]
    assert len({each.incident for each in found[:3]}) == 1
    assert found[3].incident != found[0].incident
    assert [each.opened_ms for each in found] == [20, 20, 20, 100]
    assert list(incidents.open) == [0]


def test_an_incident_whose_level_is_accepted_ends_with_its_highest_score() -> None:
    incidents = Incidents("machines", quiet_points=2)
    scores = [35.0, 36, 52, 35, 31, 36, 20]
    found = follow(incidents, [(0, score) for score in scores], accepted=[2, 5])
    assert [(each.position, each.state, each.score, each.severity) for each in found] == [
        (0, "opened", 35.0, 0),
        (2, "accepted", 52.0, 2),
        (3, "opened", 35.0, 0),
        (5, "accepted", 36.0, 0),
    ]
    assert not incidents.open


def test_the_point_that_makes_a_level_usual_opens_nothing() -> None:
    incidents = Incidents("machines", quiet_points=2)
    assert follow(incidents, [(0, 10.0), (0, 80.0), (1, 80.0)], accepted=[1]) == follow(
        Incidents("machines", quiet_points=2), [(0, 10.0), (0, 10.0), (1, 80.0)]
    )


def test_the_first_alert_may_be_of_the_worst_kind() -> None:
    incidents = Incidents("machines", quiet_points=2)
    (opened,) = follow(incidents, [(0, 80.0), (0, 90.0)])
    assert (opened.state, opened.severity) == ("opened", 2)


def states(incidents: Incidents, scores: Sequence[float], **how: Any) -> list[tuple[int, str]]:
    return [(each.position, each.state) for each in follow(incidents, [(0, score) for score in scores], **how)]


def test_an_incident_goes_on_above_a_lower_bound_but_opens_by_the_threshold_alone() -> None:
    scores = [26.0, 29.9, 31, 26, 25, 24.9, 27, 24.9, 24.9, 29.9, 29.9]
    assert states(Incidents("machines", 2, hysteresis=5.0), scores) == [(2, "opened"), (8, "resolved")]
    assert states(Incidents("machines", 2), scores) == [(2, "opened"), (4, "resolved")]


def test_the_lower_bound_lies_no_lower_than_any_threshold() -> None:
    """Where more than one normal point in ten reaches it, an incident would hardly ever end."""
    assert LEAST_BOUND == LOWEST_THRESHOLD
    assert states(Incidents("machines", 2, hysteresis=50.0), [31.0, 10, 9.9, 9.9]) == [
        (0, "opened"),
        (3, "resolved"),
    ]


def test_the_lower_bound_lifts_no_score_and_no_severity() -> None:
    found = follow(Incidents("machines", 1, hysteresis=5.0), [(0, s) for s in (30.0, 29, 28, 20)])
    assert [(each.state, each.score, each.severity) for each in found] == [("opened", 30, 0), ("resolved", 30, 0)]


def test_an_incident_that_comes_back_soon_is_the_same_one_with_a_severity_of_its_own() -> None:
    incidents = Incidents("machines", quiet_points=1, merge_points=3)
    scores = [55.0, 20, 20, 20, 31, 42, 20, 20, 20, 20, 33]
    found = follow(incidents, [(0, score) for score in scores])
    assert [(each.position, each.state, each.score, each.severity) for each in found] == [
        (0, "opened", 55.0, 2),
        (1, "resolved", 55.0, 2),
        (4, "reopened", 31.0, 0),
        (5, "worsened", 42.0, 1),
        (6, "resolved", 42.0, 1),
        (10, "opened", 33.0, 0),
    ]
    assert len({each.incident for each in found[:5]}) == 1
    assert {each.opened_ms for each in found[:5]} == {0}
    assert found[5].incident != found[0].incident


def test_what_was_accepted_is_not_reopened() -> None:
    incidents = Incidents("machines", quiet_points=1, merge_points=9)
    assert states(incidents, [35.0, 36, 37], accepted=[1]) == [(0, "opened"), (1, "accepted"), (2, "opened")]


def test_an_unchanged_incident_is_repeated_by_the_time_of_its_points() -> None:
    """Points are 10 ms apart. A quiet point repeats nothing, and what was told in between counts."""
    incidents = Incidents("machines", quiet_points=3, hysteresis=5.0, repeat_after_ms=30)
    scores = [31.0, 31, 31, 26, 31, 20, 20, 26, 41, 31, 31, 31]
    expected = [(0, "opened"), (3, "repeated"), (7, "repeated"), (8, "worsened"), (11, "repeated")]
    assert states(incidents, scores) == expected


LAST, _ = NO_MORE


def quiet_at(slot: int, offset: int, until: int = LAST) -> Quiet:
    return Quiet(slot, "silent", opened_ms=5, event_ms=5, offset=offset, row=0, until=(until, 0))


def test_an_incident_of_a_series_that_stopped_is_stale_and_not_reopened() -> None:
    incidents = Incidents("machines", quiet_points=2, merge_points=9)
    scored = [(0, 41.0), (1, 31.0), (0, 35.0), (1, 5.0)]
    made, score_M = points(scored)
    stops = {0: [quiet_at(0, offset=1, until=2)], 1: [quiet_at(1, offset=3)]}
    how = (np.full(4, 30.0), ["a", "b"], [PLACE] * 2, np.zeros(4, bool))
    found = incidents.follow(made, score_M, *how, stops)
    assert [(each.state, each.score, each.position) for each in found] == [
        ("opened", 41.0, 0),
        ("stale", 41.0, -1),
        ("opened", 35.0, 1),
        ("opened", 31.0, 2),
    ]
    assert [each.state for each in incidents.stop(stops)] == ["stale"]
    assert (list(incidents.open), stops) == ([0], {})


def test_a_stop_counts_no_quiet_point_twice() -> None:
    incidents = Incidents("machines", quiet_points=2)
    follow(incidents, [(0, 41.0)])
    stops = {0: [quiet_at(0, offset=2)]}
    assert follow(incidents, [(0, 5.0), (1, 5.0)], 1, stops=stops) == []
    assert [each.state for each in incidents.stop(stops)] == ["stale"]


@pytest.mark.parametrize("until", [3, LAST])
def test_what_was_resolved_before_a_stop_is_not_reopened(until: int) -> None:
    incidents = Incidents("machines", quiet_points=1, merge_points=9)
    scored = [(0, 41.0), (0, 5.0), (1, 5.0), (0, 41.0)]
    cut = 4 if until == 3 else 3
    stops = {0: [quiet_at(0, offset=2, until=until)]}
    found = follow(incidents, scored[:cut], stops=stops)
    assert incidents.stop(stops) == []
    found += follow(incidents, scored[cut:], cut)
    assert [each.state for each in found] == ["opened", "resolved", "opened"]


def test_a_checkpoint_of_before_goes_on() -> None:
    """The first ones hold neither when an incident was last told of, nor how a resolved one is opened again."""
    early = b'{"incident": "x", "opened_ms": 0, "threshold": 30.0, "peak": 35.0, "severity": 0, "quiet": 1}'
    incidents = Incidents("machines", quiet_points=2, repeat_after_ms=40)
    incidents.restore({0: msgspec.json.decode(early, type=OpenIncident)}, {})
    assert states(incidents, [31.0] * 5, first_offset=1) == [(3, "repeated")]


def one_by_one(
    scored: Sequence[tuple[int, float]],
    accepted: Sequence[int],
    stopped: Sequence[tuple[int, int]],
    rules: Mapping[str, Any],
) -> list[Any]:
    """The rules once more, without tables: (series, state, opened at, score, offset) of each transition."""
    now: dict[int, dict[str, Any]] = {}
    resolved: dict[int, dict[str, Any]] = {}
    told: list[Any] = []
    for offset, (slot, score) in enumerate(scored):
        for gone in sorted(gone for at, gone in stopped if at == offset - 1):
            resolved.pop(gone, None)
            if gone in now:
                ended = now.pop(gone)
                told.append((gone, "stale", ended["opened"], ended["peak"], offset - 1))
        if math.isnan(score):
            continue
        one: dict[str, Any] | None = now.get(slot)
        state: str | None = None
        if one is None:
            if score < 30 or offset in accepted:
                continue
            one, state = {"opened": offset}, "opened"
            if slot in resolved and offset - resolved[slot]["ended"] <= rules["merge_points"]:
                one, state = resolved[slot], "reopened"
            one.update(peak=score, severity=min((score - 30) // 10, 2), quiet=0)
            now[slot] = one
            resolved.pop(slot, None)
        else:
            one["quiet"] = 0 if score >= max(30 - rules["hysteresis"], 10) else one["quiet"] + 1
            if not one["quiet"] and 10 * (offset - one["told"]) >= (rules["repeat_after_ms"] or math.inf):
                state = "repeated"
            if score >= 30:
                one["peak"] = max(one["peak"], score)
                if (severity := min((score - 30) // 10, 2)) > one["severity"]:
                    one["severity"], state = severity, "worsened"
            if offset in accepted:
                state = "accepted"
            elif one["quiet"] >= rules["quiet_points"]:
                state = "resolved"
        if state is not None:
            told.append((slot, state, one["opened"], one["peak"], offset))
            one["told"] = offset
        if state in ("accepted", "resolved"):
            del now[slot]
            if state == "resolved" and rules["merge_points"]:
                resolved[slot] = one | {"ended": offset}
    return sorted(told)


@settings(max_examples=600)
@given(
    scored=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([5.0, 24.0, 27.0, 30.0, 45.0, 70.0, NAN])),
        min_size=5,
        max_size=60,
    ),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    accepted=st.lists(st.integers(0, 59), max_size=4),
    quiet_points=st.integers(1, 4),
    hysteresis=st.sampled_from([0.0, 5.0]),
    merge_points=st.sampled_from([0, 9]),
    repeat_after_ms=st.sampled_from([None, 70]),
    stops=st.sets(st.tuples(st.integers(0, 59), st.integers(0, 2)), max_size=4),
)
def test_polls_and_restarts_do_not_matter(
    scored: list[tuple[int, float]],
    cuts: list[int],
    accepted: list[int],
    quiet_points: int,
    stops: set[tuple[int, int]],
    **rules: Any,
) -> None:
    """`stops` are (offset of another series' record, slot); offsets and cuts are taken modulo what there is."""
    scored = [*scored, (0, NAN)]
    ends = len(scored) - 1
    cuts, accepted = [cut % len(scored) for cut in cuts], [at % len(scored) for at in accepted]
    placed = {(at % max(ends, 1), slot) for at, slot in stops}
    stopped = sorted((at, slot) for at, slot in placed if at < ends and scored[at][0] != slot)
    made = Incidents("machines", quiet_points, **rules)
    found: list[Any] = []
    ids: dict[str, tuple[int, int]] = {}
    for low, high in pairwise(sorted({0, len(scored), *cuts})):
        some, _ = points(scored[low:high], low)
        quiet: dict[int, list[Quiet]] = {}
        for at, slot in stopped:
            if low <= at < high:
                until = next((next_ for next_ in range(at + 1, high) if scored[next_][0] == slot), LAST)
                quiet.setdefault(slot, []).append(quiet_at(slot, at, until))
        transitions = follow(made, scored[low:high], low, accepted, quiet)
        for each in [*transitions, *made.stop(quiet)]:
            if each.stop is None:
                slot, offset = int(some.slot_M[each.position]), int(some.offset_M[each.position])
            else:
                slot, offset = each.stop.slot, each.stop.offset
            found.append((slot, each.state, each.opened_ms // 10, each.score, offset))
            assert ids.setdefault(each.incident, (slot, each.opened_ms)) == (slot, each.opened_ms)
        restarted = Incidents("machines", quiet_points, **rules)
        kept = [
            msgspec.json.encode(each) for each in (made.open, made.recent_among(np.arange(3), np.full(3, high)))
        ]
        restarted.restore(*(msgspec.json.decode(each, type=dict[int, OpenIncident]) for each in kept))
        made = restarted
    assert sorted(found) == one_by_one(scored, accepted, stopped, {"quiet_points": quiet_points, **rules})
    assert len(ids) == sum(state == "opened" for _, state, *_ in found)


def test_resolved_incidents_are_kept_as_long_as_they_may_be_reopened() -> None:
    incidents = Incidents("machines", quiet_points=1, merge_points=4)
    follow(incidents, [(0, 31.0), (0, 5.0)])
    assert list(incidents.recent_among(np.arange(1), np.array([5]))) == [0]
    assert list(incidents.recent_among(np.arange(1, 3), np.array([6, 0, 0]))) == []
    assert list(incidents.recent_among(np.arange(1), np.array([5]))) == [0]
    assert list(incidents.recent_among(np.arange(1), np.array([6]))) == []
    assert list(incidents.recent_among(np.arange(1), np.array([5]))) == []


def test_slots_given_away_keep_nothing() -> None:
    incidents = Incidents("machines", quiet_points=1, merge_points=9)
    follow(incidents, [(0, 31.0), (0, 5.0), (1, 31.0)])
    incidents.forget(np.array([0, 1]))
    assert (len(incidents), incidents.open) == (0, {})
    assert incidents.recent_among(np.array([0, 1]), np.zeros(2, np.int64)) == {}
    assert states(incidents, [31.0], first_offset=3) == [(0, "opened")]


@pytest.mark.parametrize(("score", "severity"), [(30, 0), (39.99, 0), (40, 1), (50, 2), (1000, 2)])
def test_each_severity_is_ten_times_rarer(score: float, severity: int) -> None:
    assert severity_of(score, 30) == severity


def test_ids_tell_places_and_transitions_apart() -> None:
    ids = {
        derived_id(stream, place, offset, 0, series, state)
        for stream in ("s", "t")
        for place in (PLACE, TopicPartition("metrics", 1))
        for offset in (1, 11)
        for series in ("a", "1a")
        for state in ("opened", "resolved")
    }
    assert len(ids) == 32
    assert derived_id("s", PLACE, 1, 0, "a", "opened") == derived_id("s", PLACE, 1, 0, "a", "opened")
