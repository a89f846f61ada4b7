"""When runs are due: intervals, cron, lateness, jitter; all by arguments."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.timetable import Timetable, require_cron

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MOMENTS = st.integers(0, 10 * 365 * 86_400).map(lambda seconds: AT + timedelta(seconds=seconds))


def test_an_interval_keeps_to_its_grid() -> None:
    due = Timetable("a", every_s=3600).due(AT, AT + 2.5 * HOUR)
    assert (due.run, due.missed, due.next) == (AT + 2 * HOUR, None, AT + 3 * HOUR)
    due = Timetable("a", every_s=3600).due(AT, AT + 0.9 * HOUR)
    assert (due.run, due.missed, due.next) == (None, None, AT + HOUR)


def test_cron_is_in_utc() -> None:
    nightly = Timetable("a", cron="30 2 * * *")
    due = nightly.due(AT, AT + 15 * HOUR)
    assert due.run == datetime(2026, 3, 3, 2, 30, tzinfo=UTC)
    assert nightly.due(due.run, AT + 15 * HOUR).next == datetime(2026, 3, 4, 2, 30, tzinfo=UTC)


def test_what_is_later_than_the_grace_is_missed() -> None:
    due = Timetable("a", every_s=86_400, grace_s=3600).due(AT, AT + 25 * HOUR)
    assert (due.run, due.missed) == (AT + 24 * HOUR, None)
    due = Timetable("a", every_s=86_400, grace_s=3600).due(AT, AT + 25.01 * HOUR)
    assert (due.run, due.missed, due.next) == (None, AT + 24 * HOUR, AT + 48 * HOUR)


@given(st.integers(1, 10**6), MOMENTS, MOMENTS, st.integers(1, 10**6), st.integers(0, 10**5))
def test_a_time_is_made_once_and_in_its_time(
    every_s: int, handled: datetime, now: datetime, grace_s: int, jitter_s: int
) -> None:
    timetable = Timetable("a", every_s=every_s, grace_s=grace_s, jitter_s=jitter_s)
    due = timetable.due(handled, now)
    assert due.next > now or due.run is not None
    if due.missed is not None:
        assert handled < due.missed < now - timedelta(seconds=grace_s)
    if due.run is not None:
        assert now - timedelta(seconds=grace_s + 1) <= due.run <= now
        assert due.run > handled
        again = timetable.due(due.run, now)
        assert (again.run, again.missed) == (None, None)
        steps = (due.run - handled).total_seconds() / every_s
        assert abs(steps - round(steps)) * every_s < 0.01


@given(st.floats(0, 86_400), MOMENTS)
def test_jitter_delays_and_is_drawn_once(jitter_s: float, handled: datetime) -> None:
    timetable = Timetable("a", every_s=86_400, jitter_s=jitter_s, grace_s=10**6)
    first = handled + timedelta(days=1)
    begins = timetable.due(handled, first).next
    if timetable.due(handled, first).run is None:
        assert first < begins <= first + timedelta(seconds=jitter_s)
        assert timetable.due(handled, begins - timedelta(milliseconds=1)).run is None
        assert timetable.due(handled, begins).run == first


def test_streams_are_spread() -> None:
    begins = {Timetable(name, every_s=86_400, jitter_s=3600).due(AT, AT + 24 * HOUR).next for name in "abcdefgh"}
    assert len(begins) == 8


def test_a_clock_that_is_back_finds_nothing_due() -> None:
    for timetable in (Timetable("a", every_s=3600), Timetable("a", cron="0 * * * *")):
        assert timetable.due(AT, AT - HOUR) == timetable.due(AT, AT - HOUR / 2)
        assert timetable.due(AT, AT - HOUR).run is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30 2 * *", "is no time of cron (Wrong number of fields; got 4, expected 5); write minute, hour, day"),
        ("61 * * * *", "is no time of cron ("),
        ("0 0 30 2 *", "never comes; write minute"),
        ("0 2 * * 0", "has a number for the day of the week, which is read in two ways; write minute"),
        ("x * * * *", "is no time of cron ("),
        ("* * * * someday", "is no time of cron ("),
    ],
)
def test_lines_that_are_no_cron(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"is no time of cron|never comes|has a number") as caught:
        require_cron(text)
    assert str(caught.value).startswith(f"{text!r} {said}")


def test_lines_of_cron() -> None:
    for text in ("*/5 * * * *", "30 2 * * sun", "0 0 1 jan,jul *", "0 8-18/2 * * mon-fri"):
        require_cron(text)
