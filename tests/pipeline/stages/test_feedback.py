"""What feedback does to thresholds: how strongly, of which deviations, from which record on, and until when."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arrays import FloatArray
from pipeline.feedback import Deviation, Feedback
from pipeline.protocols import TopicPartition
from pipeline.stages.feedback import LOWERED, MOST_SOFTLY, FeedbackEffect, Heeded, Kinds, margin, signs_of
from tests.said import CPU_UP, deviation, said

FEATURES = ("cpu", "mem")
PLACE, OTHER = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
NAMES, PARTITIONS = ["a", "b", "c", "a"], [PLACE, PLACE, PLACE, OTHER]
"""By slot: the last one has the name of the first, in another partition."""
OWN = 30.0
CPU_DOWN, MEM_UP = deviation({"cpu": 1.0}, {"cpu": -1}), deviation({"mem": 1.0})


class Asked:
    """Points that are judged one after the other, at a threshold of 30 each."""

    def __init__(self, *pieces: Feedback, echo_points: int = 0) -> None:
        self.effect = FeedbackEffect(FEATURES, echo_points)
        if pieces:
            self.adopt(0, *pieces)
        self.explained = 0

    def adopt(self, offset: int, *pieces: Feedback) -> None:
        self.effect.adopt(PLACE, offset, {piece.incident: piece for piece in pieces})

    def heed(
        self,
        scores: Sequence[float],
        slots: Sequence[int] | None = None,
        kinds: Sequence[Deviation] = (),
        *,
        offsets: Sequence[int] | None = None,
        time_ms: int = 0,
        first_index: int = 0,
    ) -> Heeded:
        count = len(scores)
        told = [kinds[k] if kinds else CPU_UP for k in range(count)]

        def kinds_of(positions: Sequence[int]) -> Kinds:
            self.explained += len(positions)
            chosen = [told[k] for k in positions]
            return Kinds(
                _of([each.shares for each in chosen]), _of([each.signs for each in chosen]).astype(np.int64)
            )

        return self.effect.heed(
            PARTITIONS,
            NAMES,
            np.array(slots or [0] * count, np.int64),
            first_index + np.arange(count),
            np.arange(count) if offsets is None else np.array(offsets, np.int64),
            np.full(count, time_ms, np.int64),
            np.array(scores),
            np.full(count, OWN),
            kinds_of,
        )

    def threshold(self, slot: int = 0, kind: Deviation = CPU_UP) -> float:
        """Return the threshold of one point that could be moved whatever it is moved to."""
        found = {float(self.heed([score], [slot], [kind]).threshold_K[0]) for score in (OWN, OWN - 1)}
        (moved,) = found - {OWN} or {OWN}
        return moved


def _of(rows: Sequence[Mapping[str, float]]) -> FloatArray:
    return np.array([[row.get(name, 0) for name in FEATURES] for row in rows], np.float64).reshape(-1, 2)


def test_without_feedback_nothing_is_looked_at() -> None:
    asked = Asked()
    heeded = asked.heed([90.0, 20.0])
    assert (heeded.threshold_K.tolist(), heeded.moved, heeded.excused) == ([OWN, OWN], {}, 0)
    assert asked.explained == 0


def test_a_false_alarm_lifts_its_kind_in_its_series_to_its_peak_and_a_margin() -> None:
    asked = Asked(said("i1", peak=50.0))
    assert asked.threshold() == pytest.approx(50 + 10 * np.log10(5))
    assert asked.threshold(kind=CPU_DOWN) == OWN
    assert asked.threshold(kind=MEM_UP) == OWN
    assert asked.threshold(slot=3) == OWN  # Another partition has not adopted it.


def test_what_is_clearly_stronger_alerts_and_says_what_had_moved_its_threshold() -> None:
    heeded = Asked(said("i1", peak=50.0)).heed([56.9, 57.1, 90.0])
    assert (np.array([56.9, 57.1, 90.0]) >= heeded.threshold_K).tolist() == [False, True, True]
    assert heeded.excused == 1
    assert heeded.moved.keys() <= {1}
    assert Asked(said("i1", peak=50.0)).heed([29.9]).excused == 0
    strong = Asked(said("i1", peak=50.0), said("i2", "confirmed", peak=50.0)).heed([55.0])
    assert strong.moved[0].incidents == ["i1", "i2"]
    assert strong.moved[0].raised_by == pytest.approx(50 - 10 * np.log10(5) - OWN)


def test_points_below_their_threshold_and_far_above_any_other_are_not_explained() -> None:
    asked = Asked(said("i1", peak=50.0))
    asked.heed([10.0, 29.9, 58.0, float("nan")])
    assert asked.explained == 0
    asked.heed([30.0, 56.0])
    assert asked.explained == 2


@given(peaks=st.lists(st.floats(0, 40), min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
def test_the_margin_needs_no_more_than_the_ranks_of_the_peaks(peaks: list[float], seed: int) -> None:
    """With more marks the highest of them rises and the margin falls; nine need none."""
    pieces = [said(f"i{n}", peak=OWN + peak) for n, peak in enumerate(peaks)]
    expected = max(OWN, OWN + max(peaks) + max(10 * np.log10(10 / (len(peaks) + 1)), 0))
    assert Asked(*pieces).threshold() == pytest.approx(expected)
    assert margin(9) == margin(30) == 0


def test_the_margin_leaves_a_tenth_of_the_repeats_where_peaks_scatter_as_assumed() -> None:
    """And half of them at the peak itself, whatever the distribution."""
    peaks = 30 + np.random.default_rng(0).exponential(10 / np.log(10), (10, 200_000))
    for marks in (1, 2, 5, 9):
        highest = peaks[:marks].max(axis=0)
        assert (peaks[9] > highest).mean() == pytest.approx(1 / (marks + 1), abs=0.005)
        assert (peaks[9] > highest + margin(marks)).mean() == pytest.approx(0.1, abs=0.005)


def test_other_series_of_the_stream_are_moved_softly() -> None:
    asked = Asked(said("i1", peak=90.0))
    assert asked.threshold(slot=1) == pytest.approx(OWN + 10 * np.log10(2))
    assert asked.threshold(slot=1, kind=CPU_DOWN) == OWN
    again = Asked(*(said(f"i{n}", peak=90.0) for n in range(10)))
    assert again.threshold(slot=1) == pytest.approx(OWN + 10 * np.log10(2)), "ten incidents of one series are one"
    two = Asked(said("i1", series="a"), said("i2", series="c"))
    assert two.threshold(slot=1) == pytest.approx(OWN + 10 * np.log10(3))
    many = Asked(*(said(f"i{n}", series=f"other {n}") for n in range(50)))
    assert many.threshold(slot=1) == OWN + MOST_SOFTLY


def test_where_others_were_confirmed_series_are_moved_less_softly_and_never_down() -> None:
    asked = Asked(said("i1"), said("i2", "confirmed", series="c"))
    assert asked.threshold(slot=1) == OWN
    assert Asked(said("i2", "confirmed", series="c")).threshold(slot=1) == OWN
    mixed = Asked(said("i1"), said("i3", series="d"), said("i2", "confirmed", series="c"))
    assert mixed.threshold(slot=1) == pytest.approx(OWN + 10 * np.log10(3 / 2))


def test_a_confirmed_one_lowers_its_kind_by_a_budget_once() -> None:
    asked = Asked(said("i1", "confirmed"), said("i2", "confirmed"))
    assert asked.threshold() == OWN - LOWERED
    assert asked.threshold(kind=CPU_DOWN) == OWN
    heeded = asked.heed([OWN - 1, OWN - 4])
    assert heeded.moved[0].incidents == ["i1", "i2"]
    assert heeded.moved[0].raised_by == pytest.approx(-LOWERED)
    assert heeded.threshold_K[1] == OWN
    assert Asked(said("i1", "confirmed"), said("i2", series="b")).threshold() == OWN - LOWERED


def test_confirmed_and_false_ones_of_a_kind_hold_each_other_back() -> None:
    both = Asked(said("i1", peak=60.0), said("i2", "confirmed", peak=50.0))
    assert both.threshold() == pytest.approx(50 - 10 * np.log10(5)), "at most a tenth of its repeats is lost"
    near = Asked(said("i1", peak=60.0), said("i2", "confirmed", peak=31.0))
    assert near.threshold() == OWN, "neither raised nor lowered"
    apart = Asked(said("i1", peak=40.0), said("i2", "confirmed", peak=90.0))
    assert apart.threshold() == pytest.approx(40 + 10 * np.log10(5))


def test_what_is_expected_begins_nothing_before_its_end_however_strong() -> None:
    asked = Asked(said("i1", "expected", until_ms=1000))
    assert asked.heed([500.0], time_ms=999).threshold_K[0] == np.inf
    assert asked.heed([500.0], time_ms=1000).threshold_K[0] == OWN
    assert asked.heed([500.0], [0], [MEM_UP], time_ms=0).threshold_K[0] == OWN
    assert asked.heed([500.0], [1], time_ms=0).threshold_K[0] == OWN


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        (deviation({"cpu": 0.6, "mem": 0.4}, {"cpu": 1}), True),  # .6 + .1
        (deviation({"cpu": 0.5, "mem": 0.5}, {"cpu": 1}), False),
        (deviation({"cpu": 1.0}, {}), True),
        (deviation({"cpu": 0.9, "mem": 0.1}, {"cpu": -1}), False),
        (deviation({"disk": 1.0}), False),
    ],
)
def test_a_kind_is_two_thirds_of_the_score_on_the_same_side(kind: Deviation, same: bool) -> None:
    assert (Asked(said("i1")).threshold(kind=kind) != OWN) is same


def test_any_of_an_incidents_alerts_tells_its_kind() -> None:
    asked = Asked(said("i1", deviations=[CPU_UP, MEM_UP]), said("i2", series="b", deviations=[CPU_DOWN]))
    assert asked.threshold(kind=MEM_UP) == asked.threshold(kind=CPU_UP) > 50
    assert asked.threshold(slot=1, kind=CPU_DOWN) > 50


@pytest.mark.parametrize(
    "piece",
    [
        said("i1", deviations=[]),
        said("i1", peak=None, subject="silence", deviations=[]),
        said("i1", peak=None, subject="storm", series=""),
        said("i1", deviations=[deviation({"gone": 1.0})]),
    ],
)
def test_what_tells_of_no_feature_of_the_model_moves_nothing(piece: Feedback) -> None:
    assert Asked(piece).threshold() == OWN


def test_it_acts_from_its_offset_on_and_no_more_from_that_of_its_retraction_on() -> None:
    asked = Asked()
    other = said("i2", "expected", until_ms=10**6, deviations=[MEM_UP])
    asked.adopt(10, said("i1"))
    asked.adopt(10, said("i1"), other)
    asked.adopt(20, other)
    heeded = asked.heed([40.0] * 4, offsets=[9, 10, 19, 20])
    assert (heeded.threshold_K > OWN).tolist() == [False, True, True, False]
    assert len(asked.effect) == 1
    asked.effect.drop(PLACE)
    assert asked.heed([40.0], offsets=[12]).threshold_K[0] == OWN


def test_a_later_word_on_an_incident_replaces_the_one_before() -> None:
    asked = Asked(said("i1"))
    asked.adopt(5, said("i1", "confirmed"))
    assert asked.heed([OWN - 1], offsets=[7]).threshold_K[0] == OWN - LOWERED


def test_the_echo_of_what_was_excused_begins_nothing_for_some_points() -> None:
    asked = Asked(said("i1", peak=50.0), echo_points=2)
    kinds = [CPU_UP, CPU_DOWN, CPU_DOWN, CPU_DOWN]
    heeded = asked.heed([45.0, 55.0, 40.0, 40.0], kinds=kinds)
    assert (heeded.threshold_K > OWN).tolist() == [True, True, True, False]
    assert heeded.excused == 3
    assert asked.heed([45.0, 57.5], kinds=kinds, first_index=10).threshold_K[1] <= 57.5, "stronger than was marked"
    assert asked.heed([40.0, 40.0], kinds=[CPU_DOWN] * 2, first_index=20).excused == 0, "nothing was excused before"


def test_an_echo_is_cut_by_polls_as_it_may_be_and_survives_a_restart() -> None:
    asked, other = Asked(said("i1"), echo_points=2), Asked(said("i1"), echo_points=2)
    assert asked.effect.snapshot(PLACE) == b""
    asked.heed([45.0])
    other.effect.restore(PLACE, asked.effect.snapshot(PLACE))
    for each in (asked, other):
        assert each.heed([45.0], kinds=[CPU_DOWN], first_index=1).excused == 1
    assert asked.effect.snapshot(PLACE) == other.effect.snapshot(PLACE) != b""


def test_a_retraction_ends_an_echo_too() -> None:
    asked = Asked(said("i1"), said("i2", deviations=[MEM_UP]), echo_points=5)
    asked.heed([45.0])
    asked.adopt(1, said("i2", deviations=[MEM_UP]))
    assert asked.heed([45.0], kinds=[CPU_DOWN], offsets=[1], first_index=1).threshold_K[0] == OWN


def test_an_echo_leaves_with_its_series_and_no_other() -> None:
    asked = Asked(said("i1"), echo_points=5)
    asked.heed([45.0])
    asked.effect.forget([(PLACE, "another")])
    assert asked.heed([45.0], kinds=[CPU_DOWN], first_index=1).excused == 1
    asked.effect.forget([(PLACE, NAMES[0])])
    assert asked.heed([45.0], kinds=[CPU_DOWN], first_index=2).excused == 0


def test_the_echo_of_something_expected_is_as_quiet() -> None:
    asked = Asked(said("i1", "expected", until_ms=1000), echo_points=2)
    heeded = asked.heed([500.0, 400.0], kinds=[CPU_UP, CPU_DOWN])
    assert np.isinf(heeded.threshold_K).all()


@given(cuts=st.sets(st.integers(1, 11), max_size=5), seed=st.integers(0, 2**16))
def test_polls_do_not_matter(cuts: set[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.uniform(25, 60, 12).tolist()
    kinds = [(CPU_UP, CPU_DOWN, MEM_UP)[k] for k in random.integers(0, 3, 12)]
    pieces = [said("i1", peak=40.0), said("i2", "confirmed", peak=55.0, deviations=[MEM_UP])]
    whole = Asked(*pieces, echo_points=2).heed(scores, kinds=kinds).threshold_K.tolist()
    asked, found = Asked(*pieces, echo_points=2), []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        part = asked.heed(scores[begin:end], kinds=kinds[begin:end], offsets=range(begin, end), first_index=begin)
        found += part.threshold_K.tolist()
    assert found == whole


@pytest.mark.parametrize(
    ("off", "band", "back", "sign"), [(2.0, 1.0, 0, 1), (-2.0, 1.0, 0, -1), (0.5, 1.0, 0, 0), (2.0, 1.0, 3, 0)]
)
def test_a_side_is_known_where_the_point_itself_lies_outside_what_is_usual(
    off: float, band: float, back: int, sign: Literal[-1, 0, 1]
) -> None:
    assert signs_of(np.array([[off]]), np.array([[band]]), np.array([back]))[0, 0] == sign
