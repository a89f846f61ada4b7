"""How far two sides agree: the counts against those of whole incidents, laid side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agreement import Agreement
from pipeline.protocols import TopicPartition
from pipeline.shadows import SIDES, Side, Tally
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import State
from pipeline.stages.muting import Muted
from pipeline.stream import Outcome, Scored

PLACE = TopicPartition("metrics", 0)


@dataclass(frozen=True)
class Whole:
    """An incident from its first record to its last."""

    side: Side
    series: str
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.side}/{self.series}@{self.first}"


def alert(incident: Whole, offset: int, state: State, score: float | None = 40.0) -> Alert:
    return Alert(
        incident.name,
        "machines",
        incident.series,
        {},
        state,
        "minor",
        score,
        30.0,
        opened_ms=1000 * incident.first,
        event_ms=1000 * offset,
        features={},
        model_version="v",
        topic="metrics",
        partition=0,
        offset=offset,
    )


def outcome(alerts: Sequence[Alert], muted: Sequence[Alert] = ()) -> Outcome:
    def never() -> Scored:
        raise AssertionError("nobody asks for the scores")

    return Outcome(alerts, [], never, muted=[Muted(each, "storm") for each in muted])


def polled(incidents: Sequence[Whole], low: int, high: int, *, mute: bool = False) -> dict[Side, Outcome]:
    """Return what the offsets from `low` to before `high` come to."""
    found: dict[Side, list[Alert]] = {"champion": [], "shadow": []}
    for each in incidents:
        events: list[tuple[int, State]] = [(each.first, "opened"), (each.last, "resolved")]
        if each.last - each.first > 2:
            events.insert(1, (each.first + 1, "worsened"))
        found[each.side] += [alert(each, at, state) for at, state in events if low <= at < high]
    ordered = {side: sorted(found[side], key=lambda each: each.offset) for side in SIDES}
    return {side: outcome([], ordered[side]) if mute else outcome(ordered[side]) for side in SIDES}


def follow(agreement: Agreement, both: dict[Side, Outcome], counted_from: int = 0) -> list[str]:
    alone = agreement.follow(both["champion"], both["shadow"], {PLACE: counted_from})
    return [example.incident for example in alone]


@st.composite
def _courses(draw: st.DrawFn) -> list[Whole]:
    """Incidents of two sides in two series; those of one side in one series never overlap."""
    found = []
    for side in SIDES:
        for series in "ab":
            at = 0
            for _ in range(draw(st.integers(0, 4))):
                first = at + draw(st.integers(1, 6))
                at = first + draw(st.integers(1, 8))
                found.append(Whole(side, series, first, at))
    return found


@given(_courses(), st.lists(st.integers(1, 15), min_size=1, max_size=8), st.booleans())
def test_counts_are_those_of_incidents_laid_side_by_side(
    incidents: list[Whole], sizes: list[int], mute: bool
) -> None:
    agreement, at, alone = Agreement(Tally("v2", 0, 0)), 0, []
    while at < 70:
        for size in sizes:
            alone += follow(agreement, polled(incidents, at, at + size, mute=mute))
            at += size
    for side in SIDES:
        own = [each for each in incidents if each.side == side]
        shared = [each for each in own if any(overlap(each, other) for other in incidents if other.side != side)]
        counts = agreement.tally.of(side)
        assert (counts.incidents, counts.shared, counts.alone) == (len(own), len(shared), len(own) - len(shared))
        left = sorted(each.name for each in own if each not in shared)
        assert sorted(name for name in alone if name.startswith(side)) == left


def overlap(one: Whole, other: Whole) -> bool:
    return one.series == other.series and one.first <= other.last and other.first <= one.last


def test_an_example_tells_where_it_began_and_its_highest_score() -> None:
    agreement, whole = Agreement(Tally("v2", 0, 0)), Whole("shadow", "a", 3, 9)
    steps: list[tuple[int, State, float]] = [(3, "opened", 31.0), (5, "worsened", 52.5), (9, "resolved", 52.5)]
    told = [alert(whole, at, state, score) for at, state, score in steps]
    (example,) = agreement.follow(outcome([]), outcome(told), {PLACE: 0})
    assert (example.side, example.incident, example.series, example.score) == ("shadow", "shadow/a@3", "a", 52.5)
    assert (example.begun_ms, example.ended_ms, example.offset) == (3000, 9000, 3)
    assert agreement.tally.examples == [example]


def test_what_began_before_it_counts_is_followed_and_not_counted() -> None:
    incidents = [Whole("champion", "a", 2, 9), Whole("shadow", "a", 7, 12), Whole("champion", "b", 2, 9)]
    agreement = Agreement(Tally("v2", 0, 0))
    assert follow(agreement, polled(incidents, 0, 20), counted_from=5) == []
    assert (agreement.tally.champion.incidents, agreement.tally.shadow.incidents) == (0, 1)
    assert agreement.tally.shadow.shared == 1


def test_an_incident_whose_beginning_nobody_saw_is_known_by_what_comes_of_it() -> None:
    """The shadow has it from the champion, whose state it began with."""
    champion, shadow = Whole("champion", "a", 2, 9), Whole("shadow", "a", 5, 12)
    agreement = Agreement(Tally("v2", 0, 0))
    follow(agreement, polled([champion, shadow], 4, 20))
    counts = agreement.tally.shadow
    assert (counts.incidents, counts.shared, counts.alone) == (1, 1, 0)
    assert agreement.tally.champion.incidents == 0


def test_what_is_open_when_state_is_thrown_away_does_not_count() -> None:
    incidents = [Whole("champion", "a", 2, 9), Whole("shadow", "b", 2, 9), Whole("champion", "b", 3, 9)]
    agreement = Agreement(Tally("v2", 0, 0))
    follow(agreement, polled(incidents, 0, 5))
    agreement.forget(TopicPartition("metrics", 1))
    assert agreement.tally.champion.incidents == 2
    agreement.forget(PLACE)
    assert (agreement.tally.champion.incidents, agreement.tally.champion.shared) == (1, 1)
    assert (agreement.tally.shadow.incidents, agreement.tally.shadow.shared) == (1, 1)
    assert follow(agreement, polled(incidents, 5, 20)) == []
    assert (agreement.tally.champion.incidents, agreement.tally.champion.alone) == (1, 0)


@pytest.mark.parametrize("state", ["silent", "storm"])
def test_silence_and_storms_say_nothing_of_a_model(state: State) -> None:
    agreement, silent = Agreement(Tally("v2", 0, 0)), Whole("champion", "a", 2, 2)
    follow(agreement, {"champion": outcome([alert(silent, 2, state, None)]), "shadow": outcome([])})
    assert agreement.tally.champion.incidents == 0


def test_records_of_features_agree_one_by_one() -> None:
    def of(side: Side, *offsets: int) -> Outcome:
        # The incident of such a record has the same id on both sides.
        return outcome([alert(Whole("champion", "", at, at), at, "opened") for at in offsets])

    agreement = Agreement(Tally("v2", 0, 0))
    both: dict[Side, Outcome] = {"champion": of("champion", 1, 4, 7), "shadow": of("shadow", 4, 7, 8, 9)}
    assert follow(agreement, both, counted_from=2) == ["champion/@8", "champion/@9"]
    assert (agreement.tally.champion.incidents, agreement.tally.champion.shared) == (2, 2)
    assert (agreement.tally.shadow.incidents, agreement.tally.shadow.alone) == (4, 2)
