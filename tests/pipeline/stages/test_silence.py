"""Quiet series, by the time of their partition: whatever the polls and restarts, whatever the clocks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.arrays import IntArray
from pipeline.protocols import TopicPartition
from pipeline.stages.bounds import Bounds
from pipeline.stages.decode import Batch
from pipeline.stages.series import SeriesTable
from pipeline.stages.silence import NO_MORE, STALE, STOPPED_AFTER, Quiet, Silence

PLACE, OTHER = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
INTERVAL_MS = {"a": 10, "b": 10, "c": 25}
WINDOW = 2
Row = tuple[str, int, int]
"""Series, event time and Kafka timestamp in ms; -1: there is none."""
Told = tuple[str, str, int, int, int]
"""Series, state, opening, event time and offset."""


class Stage:
    """The table of series with the stage of silence behind it."""

    def __init__(self, intervals: int | None = 3, max_series: int | None = None) -> None:
        self.bounds = Bounds(max_series)
        self.table = SeriesTable(
            1, WINDOW, known_scaling=lambda name: None, known_interval_ms=INTERVAL_MS.get, bounds=self.bounds
        )
        self.silence = Silence(self.table, intervals)

    def take(self, *polled: tuple[TopicPartition, Sequence[Row], int]) -> list[Quiet]:
        """Give it one poll: partitions, each with its rows and first offset."""
        self.table.take_evicted()
        batches = [batch(*each) for each in polled]
        admitted = self.table.admit(batches)
        return self.silence.follow(batches, admitted.points, admitted.place_M, admitted.evicted)

    def told(self, quiet: Sequence[Quiet]) -> list[Told]:
        return [(self.table.names[q.slot], q.state, q.opened_ms, q.event_ms, q.offset) for q in quiet]

    def restarted(self, intervals: int | None = 3, place: TopicPartition = PLACE) -> "Stage":
        """Return a stage that was restored from a snapshot of this one, with slots in another order."""
        slots = self.table.held(place)
        rows, state = self.table.snapshot(slots), self.silence.snapshot_rows(slots)
        other, order = Stage(intervals, self.bounds.max_series), np.arange(len(slots))[::-1]
        moved = other.table.add_all(place, [self.table.names[slot] for slot in slots[order].tolist()])
        warming = rows.pop("warming_steps_ms")
        other.table.restore(moved, {n: a[order] for n, a in rows.items()} | {"warming_steps_ms": warming})
        other.table.restore_bounds(place, self.table.snapshot_bounds(place))
        other.silence.restore_rows(moved, {n: a[order] for n, a in state.items()})
        other.silence.restore(place, self.silence.snapshot(place))
        return other


def batch(place: TopicPartition, rows: Sequence[Row], first_offset: int) -> Batch:
    count = len(rows)
    return Batch(
        place,
        [row[0] for row in rows],
        np.array([row[1] for row in rows], np.int64),
        np.zeros((count, 1)),
        np.arange(count),
        np.arange(first_offset, first_offset + count),
        np.array([row[2] for row in rows], np.int64),
    )


def told(rows: Sequence[Row], intervals: int | None = 3) -> list[Told]:
    stage = Stage(intervals)
    return stage.told(stage.take((PLACE, rows, 0)))


def on_time(series: str, *times_ms: int) -> list[Row]:
    return [(series, time_ms, time_ms) for time_ms in times_ms]


def steps(series: str, first_ms: int, last_ms: int, step_ms: int = 10) -> list[Row]:
    return on_time(series, *range(first_ms, last_ms + 1, step_ms))


def merged(*each: Sequence[Row]) -> list[Row]:
    return sorted((row for rows in each for row in rows), key=lambda row: row[1])


def test_a_series_is_silent_when_the_others_time_has_passed_its_deadline() -> None:
    rows = merged(steps("a", 0, 100), on_time("b", 1, 11, 21))
    # b was last seen at a watermark of 21, so its time is up at 51; the record at 60 is the first one past it.
    offset = rows.index(("a", 60, 60))
    assert told(rows) == [("b", "silent", 51, 51, offset)]


def test_its_next_record_resolves_the_silence() -> None:
    rows = merged(steps("a", 0, 200), on_time("b", 1, 11, 101, 111))
    back, again = rows.index(("b", 101, 101)), rows.index(("a", 150, 150))
    assert told(rows) == [
        ("b", "silent", 41, 41, rows.index(("a", 50, 50))),
        ("b", "resolved", 41, 101, back),
        ("b", "silent", 141, 141, again),
    ]


def test_a_silence_that_lasts_is_stale() -> None:
    rows = merged(steps("a", 0, 1000), on_time("b", 1, 11, 901))
    stale_ms = 11 + STALE * 30
    assert [each[:4] for each in told(rows)] == [
        ("b", "silent", 41, 41),
        ("b", "stale", 41, stale_ms),
        # It comes back, which resolves nothing, and goes.
        ("b", "silent", 931, 931),
    ]


def test_without_the_setting_a_series_stops_much_later_and_nothing_is_told_of_it() -> None:
    rows = merged(steps("a", 0, 3000), on_time("b", 1, 11))
    assert told(rows, None) == [("b", "stopped", 11 + 10 * STOPPED_AFTER, 11 + 10 * STOPPED_AFTER, 104)]


def test_a_partition_without_records_says_nothing_and_one_that_resumes_says_it_late() -> None:
    """One jump of time says nothing of a series: after a pause of all, each has its time once more."""
    rows = merged(steps("a", 0, 50), steps("b", 1, 51))
    pause = merged(steps("a", 5000, 5100), steps("b", 5007, 5107))
    assert told([*rows, *pause]) == []
    assert told([*rows, *steps("a", 5000, 5100)]) == [("b", "silent", 5030, 5030, len(rows) + 3)]
    # Slow as a may be in b's eyes, a second jump is enough.
    assert [each[:3] for each in told([*rows, *on_time("a", 5000, 5100)])] == [("b", "silent", 5030)]


def test_a_series_whose_clock_is_ahead_silences_no_other() -> None:
    rows = merged(steps("a", 0, 50), steps("b", 1, 51))
    ahead = [("a", 3000 + time_ms, time_ms) for time_ms in range(60, 200, 10)]
    assert told(merged_by_timestamp(rows, ahead, steps("b", 61, 201))) == []
    # Where its Kafka timestamp is wrong as well, time stands still until it has caught up.
    wrong = [("a", 3000 + time_ms, 3000 + time_ms) for time_ms in range(60, 200, 10)]
    assert told([*rows, *(row for pair in zip(wrong, steps("b", 61, 191), strict=True) for row in pair)]) == []


def merged_by_timestamp(*each: Sequence[Row]) -> list[Row]:
    return sorted((row for rows in each for row in rows), key=lambda row: row[2])


def test_a_series_whose_clock_is_behind_is_as_silent_as_any() -> None:
    behind = [("b", time_ms, time_ms + 1000) for time_ms in range(0, 60, 10)]
    rows = merged_by_timestamp(steps("a", 1000, 1200), behind)
    assert [each[:3] for each in told(rows)] == [("b", "silent", 1050 + 30)]


def test_a_clock_that_is_set_back_is_a_silence_until_its_time_is_made_up_for() -> None:
    """Its records are late, so none is of use: that is what the incident says."""
    set_back = [("b", time_ms - 60, time_ms) for time_ms in range(61, 200, 10)]
    rows = merged_by_timestamp(steps("a", 0, 200), steps("b", 1, 51), set_back)
    assert [each[:4] for each in told(rows)] == [("b", "silent", 81, 81), ("b", "resolved", 81, 61)]


def test_a_series_is_watched_from_its_first_window_on() -> None:
    assert told(merged(steps("a", 0, 100), on_time("b", 1))) == []


def test_partitions_have_times_of_their_own() -> None:
    stage = Stage()
    both = merged(steps("a", 0, 20), steps("b", 1, 21))
    assert stage.take((PLACE, both, 0), (OTHER, both, 50)) == []
    quiet = stage.take((OTHER, steps("a", 30, 60), 70), (PLACE, [], 9))
    assert stage.told(quiet) == [("b", "silent", 51, 51, 73)]
    assert stage.table.partitions[quiet[0].slot] == OTHER
    assert stage.silence.silent == 1
    stage.silence.drop(OTHER, stage.table.drop(OTHER))
    assert stage.silence.silent == 0
    assert stage.take((OTHER, steps("a", 0, 200), 0)) == []


def test_a_stop_tells_the_offset_of_the_record_that_comes_after_it() -> None:
    stage = Stage()
    rows = merged(steps("a", 0, 200), on_time("b", 1, 11, 101))
    silent, _, last = stage.take((PLACE, rows, 0))
    assert (silent.until, last.until) == ((rows.index(("b", 101, 101)), 0), NO_MORE)


def test_series_that_were_quiet_before_they_were_watched_are_not_told_of() -> None:
    """A checkpoint of before has no state of silence."""
    before = Stage()
    before.take((PLACE, merged(steps("a", 0, 200), on_time("b", 1, 11), on_time("c", 2, 27, 155)), 0))
    now = Stage()
    names = ["a", "b", "c"]
    slots = now.table.add_all(PLACE, names)
    assert [before.table.names[slot] for slot in before.table.held(PLACE).tolist()] == names
    now.table.restore(slots, before.table.snapshot(before.table.held(PLACE)))
    now.silence.restore_rows(slots, {})
    now.silence.restore(PLACE, {})
    found = now.told(now.take((PLACE, steps("a", 210, 300), 30)))
    assert found == [("c", "silent", 230, 230, 32)]
    assert now.take((PLACE, on_time("b", 301, 311), 40)) == []


def test_a_shorter_setting_tells_what_is_quiet_by_it_with_the_next_record() -> None:
    rows = merged(steps("a", 0, 60), on_time("b", 1, 11))
    stage = Stage(9)
    stage.take((PLACE, rows, 0))
    shorter = stage.restarted(3)
    assert shorter.told(shorter.take((PLACE, on_time("a", 61), 20))) == [("b", "silent", 41, 41, 20)]


def test_all_series_are_looked_at_only_when_a_deadline_may_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, polls, asked = Stage(10), 300, list[TopicPartition]()
    held = stage.table.held

    def counted(place: TopicPartition) -> IntArray:
        asked.append(place)
        return held(place)

    monkeypatch.setattr(stage.table, "held", counted)
    for poll in range(polls):
        assert stage.take((PLACE, merged(on_time("a", 10 * poll), on_time("b", 10 * poll + 1)), 2 * poll)) == []
    assert 0 < len(asked) <= polls / 8


def naive(rows: Sequence[Row], intervals: int | None, max_series: int | None = None) -> list[Told]:
    """The rules once more, one record after the other and all series at each."""
    allowed = {name: (intervals or STOPPED_AFTER) * ms for name, ms in INTERVAL_MS.items()}
    series: dict[str, dict[str, Any]] = {}
    now_ms, found = -1, list[Told]()
    for offset, (name, time_ms, published_ms) in enumerate(rows):
        before_ms, now_ms = now_ms, max(now_ms, time_ms if published_ms < 0 else min(time_ms, published_ms))
        if name not in series and len(series) == max_series:
            oldest = min(series, key=lambda each: series[each]["row"])
            left, state = series.pop(oldest), "stopped"
            if left["state"] == "silent":
                state = "stale"
            found.append((oldest, state, left["opened"] if state == "stale" else now_ms, now_ms, offset))
        own = series.setdefault(name, {"count": 0, "last": -1, "state": "unwatched"})
        own["row"] = offset
        for other, its in series.items():
            if other == name and time_ms > its["last"]:
                continue
            while its["state"] in ("watched", "spared", "silent"):
                due_ms = its["seen"] + allowed[other]
                if its["state"] == "silent":
                    due_ms = its["opened"] + (STALE - 1) * allowed[other]
                if now_ms < due_ms:
                    break
                if its["state"] == "watched" and now_ms - before_ms >= allowed[other]:
                    its |= {"state": "spared", "seen": now_ms}
                elif its["state"] == "silent":
                    found.append((other, "stale", its["opened"], due_ms, offset))
                    its["state"] = "gone"
                else:
                    its |= {"state": "silent" if intervals else "gone", "opened": due_ms}
                    found.append((other, "silent" if intervals else "stopped", due_ms, due_ms, offset))
        if time_ms <= own["last"]:
            continue
        if own["state"] == "silent":
            found.append((name, "resolved", own["opened"], time_ms, offset))
        own |= {"count": own["count"] + 1, "last": time_ms, "seen": now_ms}
        own["state"] = "watched" if own["count"] >= WINDOW else "unwatched"
    return found


moves = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([1, 5, 9, 30, 80, 400, -50]),
    st.sampled_from([0, 0, 0, 60, -200]),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    moved=st.lists(moves, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    intervals=st.sampled_from([2, 3, None]),
    max_series=st.sampled_from([None, 1, 2]),
    restarts=st.booleans(),
)
@example(
    moved=[("a", 1, 0, True)] * 4 + [("b", 9, 0, True)] * 30,
    cuts=[9, 17],
    intervals=3,
    max_series=None,
    restarts=True,
)
def test_polls_and_restarts_do_not_matter(
    moved: list[tuple[str, int, int, bool]],
    cuts: list[int],
    intervals: int | None,
    max_series: int | None,
    restarts: bool,
) -> None:
    """Clocks run, jump and are set back; some series are ahead of their Kafka timestamps, some behind."""
    rows, now_ms = list[Row](), 1000
    for name, step_ms, ahead_ms, stamped in moved:
        now_ms = max(now_ms + step_ms, 0)
        rows.append((name, now_ms + ahead_ms + 200, now_ms + 200 if stamped else -1))
    expected = sorted(naive(rows, intervals, max_series))
    stage, found = Stage(intervals, max_series), list[Told]()
    for low, high in pairwise(sorted({0, len(rows), *(cut for cut in cuts if cut <= len(rows))})):
        found += stage.told(stage.take((PLACE, rows[low:high], low)))
        stage = stage.restarted(intervals) if restarts else stage
    assert sorted(found) == expected
    assert stage.silence.silent == silent_at_the_end(expected)


def silent_at_the_end(found: Sequence[Told]) -> int:
    latest: Mapping[str, str] = {name: state for name, state, *_ in sorted(found, key=lambda told: told[4])}
    return sum(state == "silent" for state in latest.values())


def live(stage: Stage, rows: Sequence[Row], cuts: Sequence[int], restart: bool) -> list[int]:
    """Return how many series are live with each record; if asked, there is a restart after each poll."""
    counts: list[int] = []
    for low, high in pairwise(sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})):
        stage.take((PLACE, rows[low:high], low))
        passed = stage.silence.passed[PLACE]
        assert passed.offset_N.tolist() == list(range(low, high))
        counts += passed.live_at(passed.offset_N).tolist()
        stage = stage.restarted() if restart else stage
    return counts


def test_a_series_that_leaves_is_live_no_more() -> None:
    rows = [*steps("a", 0, 10), *on_time("b", 10, 20), *on_time("c", 21), *on_time("a", 22)]
    # `c` takes the place of `a`, and `a` that of `b`: both are watched again from their second record on.
    assert live(Stage(3, 2), rows, [], False) == [0, 1, 1, 2, 1, 0]


def test_a_series_is_live_from_its_first_window_until_it_is_quiet_and_again_with_its_next_record() -> None:
    rows = [*steps("a", 0, 10), *on_time("b", 10, 20), *steps("a", 20, 70), *on_time("b", 71), *steps("a", 80, 90)]
    # `a` from its second record, `b` from its second; that is quiet at 50 and back at 71.
    assert live(Stage(), rows, [], False) == [0, 1, 1, 2, *[2, 2, 2], *[1, 1, 1], 2, 2, 2]


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 300), st.sampled_from([-1, 0, 300])),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(1, 39), max_size=8),
    restart=st.booleans(),
    max_series=st.sampled_from([None, 1, 2]),
)
def test_how_many_series_are_live_is_a_matter_of_records_alone(
    rows: list[Row], cuts: list[int], restart: bool, max_series: int | None
) -> None:
    rows = [*sorted(rows[: len(rows) // 2], key=lambda row: row[1]), *rows[len(rows) // 2 :]]
    stage, whole = Stage(3, max_series), Stage(3, max_series)
    found = live(stage, rows, cuts, restart)
    assert found == live(whole, rows, [], False)
    assert max(found) <= (max_series or 3)
