"""A level that stays is accepted in its time, an outage teaches next to nothing, the former usual is kept."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import acceptance
from models.arrays import BoolArray, FloatArray
from models.by_series import BySeries
from models.calibration import DECIBEL
from models.online_tail import SERIES_PACE, OnlineTail, Usual

CPU = torch.device("cpu")
NORMAL: Usual = (DECIBEL * math.log(2), SERIES_PACE.gap, DECIBEL * math.log(8))
BLOCK = SERIES_PACE.block
PATIENCE = 320
"""Points, a whole number of blocks."""
Scored = tuple[FloatArray, list[int]]


def tail_of(points: float | None = PATIENCE, *, trained: bool = True, accepting: bool = True) -> OnlineTail:
    names = ["a", "b", "c", "d"]
    known = BySeries.of(dict.fromkeys(names, NORMAL) if trained else {})
    tail = OnlineTail(CPU, SERIES_PACE, known, accepting=accepting)
    tail.begin(np.arange(4), names)
    if points is not None:
        tail.accept_after(np.arange(4), np.full(4, points))
    return tail


def follow(tail: OnlineTail, surprise: FloatArray, slot: int = 0) -> Scored:
    """Return (scores, the points with which a level was accepted) of one series."""
    score_K, accepted_K = tail.follow(np.full(len(surprise), slot), torch.from_numpy(surprise).float())
    return score_K.numpy().astype(np.float64), np.flatnonzero(accepted_K.numpy()).tolist()


def state_of(tail: OnlineTail, slot: int = 0) -> dict[str, float]:
    return {name: float(column[0]) for name, column in tail.gather(np.array([slot])).items()}


def usual_of(tail: OnlineTail) -> list[float]:
    return [state_of(tail)[name] for name in ("median", "gap", "far")]


def calm(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).exponential(DECIBEL, count)


LEVELS: Mapping[str, Any] = {
    "exponential": lambda count, random: 60 + random.exponential(DECIBEL, count),
    "wide": lambda count, random: 60 + random.exponential(4 * DECIBEL, count),
    "normal": lambda count, random: 60 + 5 * random.standard_normal(count),
    "flat": lambda count, random: np.full(count, 60.0),
}


def level(kind: str, count: int, seed: int = 1) -> FloatArray:
    return np.asarray(LEVELS[kind](count, np.random.default_rng(seed)), np.float64)


SURPRISE = st.one_of(st.floats(0, 25, width=32), st.floats(40, 80, width=32))
SPELL = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), SURPRISE), min_size=1, max_size=10)


@given(spells=SPELL, cuts=st.lists(st.integers(0, 1500), max_size=8), seed=st.integers(0, 9))
def test_polls_do_not_matter(spells: list[tuple[int, int, float]], cuts: list[int], seed: int) -> None:
    """Spells of one level each, so that blocks are elevated, accepted and given back; to the bit."""
    random = np.random.default_rng(seed)
    slot_N = np.concatenate([np.full(count, slot) for slot, count, _ in spells])
    surprise_N = np.concatenate([value + random.exponential(DECIBEL, count) for _, count, value in spells])
    surprise_N = surprise_N.astype(np.float32)

    def run(edges: list[int]) -> tuple[FloatArray, BoolArray, dict[str, Any]]:
        tail, score_N, accepted_N = tail_of(64), np.zeros(len(slot_N)), np.zeros(len(slot_N), np.bool_)
        for low, high in pairwise(edges):
            order = low + np.argsort(slot_N[low:high], kind="stable")
            score_K, accepted_K = tail.follow(slot_N[order], torch.from_numpy(surprise_N[order]))
            score_N[order], accepted_N[order] = score_K.numpy(), accepted_K.numpy()
        return score_N, accepted_N, tail.gather(np.arange(4))

    whole = run([0, len(slot_N)])
    cut = run([0, *sorted(each for each in cuts if each <= len(slot_N)), len(slot_N)])
    np.testing.assert_array_equal(cut[0], whole[0])
    np.testing.assert_array_equal(cut[1], whole[1])
    for name, column in whole[2].items():
        np.testing.assert_array_equal(cut[2][name], column)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("points", [64, PATIENCE, 1440])
def test_an_outage_shorter_than_the_time_leaves_the_state_near_what_it_was(kind: str, points: int) -> None:
    tail = tail_of(points)
    follow(tail, calm(2000))
    before = usual_of(tail)
    _, accepted = follow(tail, level(kind, int(0.9 * points)))
    assert accepted == []
    assert usual_of(tail) == pytest.approx(before, rel=0.2, abs=3.0)
    # Without acceptance the same outage moves the upper quantile far, if it is a long one.
    if points == 1440:
        plain = tail_of(None, accepting=False)
        follow(plain, calm(2000))
        follow(plain, level(kind, int(0.9 * points)))
        assert usual_of(plain)[0] > 3 * before[0]


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("points", [64, PATIENCE, 1440])
@pytest.mark.parametrize("offset", [0, 7])
def test_a_level_that_stays_is_accepted_in_time_and_judged_by_its_own_measure(
    kind: str, points: int, offset: int
) -> None:
    tail = tail_of(points)
    follow(tail, calm(2000 + offset))
    scores, accepted = follow(tail, level(kind, points + 2 * BLOCK))
    assert len(accepted) == 1
    # A block that the level has more than half of counts.
    assert accepted[0] == points - 1 - offset
    assert scores[: accepted[0] + 1].min() > 30
    after, again = follow(tail, level(kind, 3000, seed=2))
    assert again == []
    assert (after > 20).mean() < 0.02
    assert np.median(after) == pytest.approx(DECIBEL * np.log(2), abs=1.0)
    # An anomaly on the new level is as strange as it would have been on the old one.
    width = max(usual_of(tail)[1] / SERIES_PACE.gap, 1.0)
    strange, _ = follow(tail, level(kind, 8, seed=3) + 50 * width)
    assert strange.min() > 30


@pytest.mark.parametrize("kind", LEVELS)
def test_the_former_level_is_usual_again_at_once(kind: str) -> None:
    tail = tail_of()
    follow(tail, calm(1600))
    before = usual_of(tail)
    follow(tail, level(kind, PATIENCE + 3 * BLOCK))
    assert usual_of(tail)[0] > 40
    to_the_end = BLOCK - int(state_of(tail)["seen"]) % BLOCK
    back, _ = follow(tail, calm(to_the_end + BLOCK, seed=4))
    assert back.max() < 30
    assert usual_of(tail) == pytest.approx(before, rel=0.2, abs=3.0)
    assert state_of(tail)["former_gap"] == 0
    # What was accepted once is strange when it comes again.
    again, accepted = follow(tail, level(kind, PATIENCE // 2, seed=5))
    assert again.min() > 30
    assert accepted == []


def test_of_two_levels_one_after_the_other_the_first_usual_is_kept() -> None:
    tail = tail_of()
    follow(tail, calm(1600))
    before = usual_of(tail)
    for higher in (0, 60):
        assert len(follow(tail, higher + level("exponential", PATIENCE + BLOCK))[1]) == 1
    follow(tail, calm(2 * BLOCK, seed=4))
    assert usual_of(tail) == pytest.approx(before, rel=0.2, abs=3.0)


def test_a_moments_quiet_does_not_begin_the_time_anew() -> None:
    tail = tail_of()
    follow(tail, calm(1600))
    follow(tail, level("normal", PATIENCE - 2 * BLOCK))
    follow(tail, calm(BLOCK))
    # The quiet block takes four back.
    _, accepted = follow(tail, level("normal", 2 * PATIENCE, seed=2))
    assert accepted == [6 * BLOCK - 1]


def test_a_level_that_comes_every_night_is_learned_within_days() -> None:
    tail = tail_of(1440)
    alarmed = []
    for night in range(8):
        follow(tail, calm(720, seed=night))
        scores, accepted = follow(tail, 40 + calm(720, seed=100 + night))
        assert accepted == []
        alarmed.append((scores > 30).mean())
    assert alarmed[0] > 0.95
    assert max(alarmed[4:]) < 0.15


@pytest.mark.parametrize("points", [64, PATIENCE])
def test_noise_alone_is_never_accepted(points: int) -> None:
    """On four series side by side, 25,000 points of each."""
    tail, slot_K = tail_of(points), np.arange(4).repeat(25_000)

    def side_by_side(surprise: FloatArray) -> tuple[FloatArray, bool]:
        score_K, accepted_K = tail.follow(slot_K, torch.from_numpy(surprise).float())
        return score_K.numpy().reshape(4, -1), bool(accepted_K.any())

    heavy = np.abs(np.random.default_rng(6).standard_t(3, 100_000)) * 8
    assert not side_by_side(calm(100_000))[1]
    assert not side_by_side(heavy)[1]
    scores, _ = side_by_side(calm(100_000, seed=7))
    assert 0.004 < (scores[:, 2_500:] > 20).mean() < 0.025


def test_a_series_that_training_has_not_seen_is_learned_without_waiting() -> None:
    """It has nothing usual yet that an outage could spoil."""
    surprise = 40 + calm(3000)
    new, plain = tail_of(1440, trained=False), tail_of(None, trained=False, accepting=False)
    scores, accepted = follow(new, surprise)
    np.testing.assert_array_equal(scores, follow(plain, surprise)[0])
    assert accepted == []
    # When it has been usual for as long as a level stays, it is protected as others are.
    follow(new, 40 + calm(1440, seed=2))
    before = usual_of(new)
    follow(new, 140 + calm(720, seed=3))
    assert usual_of(new) == pytest.approx(before, rel=0.3, abs=3.0)


def test_never_protects_a_series_that_training_has_not_seen_once_it_is_known() -> None:
    tail = tail_of(math.inf, trained=False)
    follow(tail, calm(300 * BLOCK))
    before = usual_of(tail)
    scores, accepted = follow(tail, level("exponential", 6000))
    assert accepted == []
    assert scores.min() > 30
    assert usual_of(tail) == pytest.approx(before, rel=0.2, abs=3.0)


def test_what_is_learned_after_an_outage_is_not_taken_back_with_it() -> None:
    """Long after, one elevated block in a row is the first again, whatever the outage was."""
    tail = tail_of(math.inf)
    follow(tail, calm(2000))
    follow(tail, level("flat", 400 * BLOCK))
    follow(tail, 6 + calm(60 * BLOCK, seed=5))
    before = usual_of(tail)
    follow(tail, level("flat", BLOCK))
    assert usual_of(tail)[0] == pytest.approx(before[0], abs=3.0)


def test_an_ended_level_does_not_come_back_with_a_strange_block() -> None:
    tail = tail_of()
    follow(tail, calm(1600))
    before = usual_of(tail)
    follow(tail, level("flat", PATIENCE + BLOCK) - 20)
    follow(tail, level("flat", PATIENCE // 2) + 20)
    follow(tail, calm(2 * BLOCK, seed=4))
    follow(tail, level("flat", BLOCK))
    assert usual_of(tail)[0] == pytest.approx(before[0], abs=3.0)


def test_while_the_interval_is_not_known_a_series_learns_as_without_acceptance() -> None:
    surprise = np.concatenate([calm(500), level("normal", 700), calm(100)])
    scores, accepted = follow(tail_of(None), surprise)
    np.testing.assert_array_equal(scores, follow(tail_of(None, accepting=False), surprise)[0])
    assert accepted == []


@pytest.mark.parametrize("at", [0, 5, BLOCK, 100, PATIENCE - 1, PATIENCE + 40])
def test_a_restored_state_goes_on_to_the_bit(at: int) -> None:
    surprise = np.concatenate([level("wide", PATIENCE + 60), calm(200)])
    through, first, second = tail_of(), tail_of(), tail_of()
    for tail in (through, first):
        follow(tail, calm(800))
    expected, accepted = follow(through, surprise)
    before, found = follow(first, surprise[:at])
    second.scatter(np.array([2]), first.gather(np.array([0])))
    after, more = follow(second, surprise[at:], slot=2)
    np.testing.assert_array_equal(np.concatenate([before, after]), expected)
    assert found + [at + each for each in more] == accepted
    assert len(accepted) == 1


@pytest.mark.parametrize("at", [800, 807])
def test_a_state_without_acceptance_is_taken_over(at: int) -> None:
    old, new = tail_of(None, accepting=False), tail_of()
    follow(old, calm(at))
    new.scatter(np.arange(4), old.gather(np.arange(4)))
    assert usual_of(new) == usual_of(old)
    # The block under way was not summed up from its start, and does not count.
    under_way = at % BLOCK > 0
    _, accepted = follow(new, level("normal", 2 * PATIENCE))
    assert accepted == [PATIENCE - 1 + under_way * (BLOCK - at % BLOCK)]
    assert state_of(new)["median"] == pytest.approx(60, abs=3)
    # And back: what it does not know is left out.
    again = tail_of(None, accepting=False)
    again.scatter(np.arange(4), new.gather(np.arange(4)))
    assert usual_of(again) == usual_of(new)


def test_state_is_small() -> None:
    tail = tail_of()
    kept = sum(column.nbytes for column in tail.gather(np.array([0])).values())
    patience = acceptance.COLUMNS["patience"].itemsize
    assert kept + patience == 88
    assert "88 with `accepting`" in str(OnlineTail.__doc__)


def test_a_slot_that_is_given_to_another_series_begins_anew() -> None:
    tail = tail_of()
    follow(tail, level("normal", PATIENCE // 2), slot=1)
    tail.begin(np.array([1]), ["b"])
    assert state_of(tail, 1) == state_of(tail_of(), 1)
    surprise = level("normal", 2 * PATIENCE)
    # Its time is another series' matter, too.
    np.testing.assert_array_equal(
        follow(tail, surprise, slot=1)[0], follow(tail_of(None, accepting=False), surprise)[0]
    )
