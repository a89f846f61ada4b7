"""The course of an incident, whatever the polls; ids that anyone can derive again."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols import TopicPartition
from pipeline.stages.incidents import Incidents, Transition, derived_id, severity_of
from pipeline.stages.series import Points

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
    incidents: Incidents, scored: Sequence[tuple[int, float]], first_offset: int = 0, accepted: Sequence[int] = ()
) -> list[Transition]:
    made, score_M = points(scored, first_offset)
    accepted_M = np.isin(made.offset_M, accepted)
    return incidents.follow(made, score_M, np.full(len(made), 30.0), ["a", "b", "c"], [PLACE] * 3, accepted_M)


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


@given(
    scored=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([5.0, 30.0, 45.0, 70.0, NAN])), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    accepted=st.lists(st.integers(0, 39), max_size=4),
)
def test_polls_do_not_matter(scored: list[tuple[int, float]], cuts: list[int], accepted: list[int]) -> None:
    def run(edges: Sequence[int]) -> list[tuple[str, str, float, int]]:
        incidents, found = Incidents("machines", quiet_points=2), []
        for low, high in pairwise(edges):
            made, _ = points(scored[low:high], low)
            for each in follow(incidents, scored[low:high], low, accepted):
                found.append((each.incident, each.state, each.score, int(made.offset_M[each.position])))
        return sorted(found)

    whole = [0, len(scored)]
    assert run(sorted({*whole, *(cut for cut in cuts if cut <= len(scored))})) == run(whole)


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
