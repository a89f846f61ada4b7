"""What parts hold: whatever changes, is written, fails or goes, they make up the state when one closes."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.changes import MOST_ADDED, Changes, Cut, Room
from pipeline.protocols import TopicPartition

HERE, THERE = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
SLOTS, MOST_ROWS = 12, 3


def room(most: int) -> Room:
    """Return room for so many series, be they written whole or not."""
    return Room(most, 1, 1)


@dataclass
class One:
    """A series: its rows, and what may change without one."""

    rows: list[int] = field(default_factory=list)
    looks: int = 0

    def copy(self) -> "One":
        return One(self.rows.copy(), self.looks)


class Series:
    """A state of rows by name on few slots, and what its parts make of it."""

    def __init__(self) -> None:
        self.changes = Changes(MOST_ROWS)
        self.name_of: dict[int, str] = {}
        self.on: dict[int, One] = {}
        self.born = self.seen = 0
        self.parts: list[tuple[Cut, dict[int, str], dict[int, One], dict[int, One]]] = []
        self.changes.own(np.zeros(0, np.int64))

    def see(self, slots: list[int], *, adds: bool = True) -> None:
        """Have each series a row more, or only change."""
        for slot in slots:
            if slot not in self.name_of:
                self.born += 1
                self.name_of[slot], self.on[slot] = f"s{self.born}", One()
                self.changes.own(np.array([slot]))
            self.seen += 1
            self.on[slot].looks += 1
            if adds:
                self.on[slot].rows.append(self.seen)
        self.changes.touch(np.array(slots, np.int64))
        if adds:
            self.changes.add_rows(*np.unique(np.array(slots, np.int64), return_counts=True))

    def rescale(self, slots: list[int]) -> None:
        """Change all rows that some series have."""
        there = sorted({slot for slot in slots if slot in self.on})
        for slot in there:
            self.on[slot].rows = [-row for row in self.on[slot].rows]
        self.changes.touch(np.array(there, np.int64))
        self.changes.alter(np.array(there, np.int64))

    def evict(self, slots: list[int]) -> None:
        gone = [slot for slot in set(slots) if slot in self.name_of]
        self.changes.release(HERE, np.array(gone, np.int64))
        for slot in gone:
            del self.name_of[slot], self.on[slot]

    @property
    def own_S(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        return np.array([slot in self.on for slot in range(SLOTS)])

    def cut(self, most: int, *, fails: bool) -> bool:
        cut = self.changes.take(HERE, self.own_S, room(most))
        if fails:
            self.changes.put_back(HERE, self.own_S, cut)
            return False
        names = {slot: self.name_of[slot] for slot in cut.named.tolist()}
        whole = {slot: self.on[slot].copy() for slot in cut.slots.tolist()}
        added = {
            slot: One(self.on[slot].rows[-rows or len(self.on[slot].rows) :], self.on[slot].looks)
            for slot, rows in zip(cut.added.tolist(), cut.rows.tolist(), strict=True)
        }
        self.parts.append((cut, names, whole, added))
        return cut.closes

    def renew(self) -> None:
        self.changes.begin_chain(HERE, self.own_S)
        self.parts = []

    @property
    def state(self) -> dict[str, One]:
        return {name: self.on[slot] for slot, name in self.name_of.items()}

    @property
    def restored(self) -> dict[str, One]:
        """What a reader of the parts finds, who knows nothing else."""
        name_of: dict[int, str] = {}
        found: dict[str, One] = {}
        for cut, names, whole, added in self.parts:
            for slot in [*cut.dropped.tolist(), *names]:
                found.pop(name_of.pop(slot, ""), None)
            name_of |= names
            found |= {name_of[slot]: one.copy() for slot, one in whole.items()}
            for slot, one in added.items():
                before = found[name_of[slot]]
                found[name_of[slot]] = One(before.rows + one.rows, one.looks)
        return found


SOME = st.lists(st.integers(0, SLOTS - 1), max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("see"), SOME),
        st.tuples(st.just("see"), SOME),
        st.tuples(st.just("look"), SOME),
        st.tuples(st.just("rescale"), SOME),
        st.tuples(st.just("evict"), SOME),
        st.tuples(st.just("cut"), st.booleans()),
        st.tuples(st.just("cut"), st.just(False)),
        st.tuples(st.just("renew"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_parts_make_up_the_state_when_one_closes(steps: list[tuple[str, object]], most: int) -> None:
    series = Series()
    for step, given_ in steps:
        if step == "see":
            series.see(given_)  # type: ignore[arg-type]
        elif step == "look":
            series.see(given_, adds=False)  # type: ignore[arg-type]
        elif step == "rescale":
            series.rescale(given_)  # type: ignore[arg-type]
        elif step == "evict":
            series.evict(given_)  # type: ignore[arg-type]
        elif step == "renew":
            series.renew()
        elif series.cut(most, fails=bool(given_)):
            assert series.restored == series.state
    for _ in range(3 * SLOTS):
        if series.cut(most, fails=False):
            break
    else:
        pytest.fail("nothing changes any more, and no part closes")
    assert series.restored == series.state


def test_what_does_not_change_is_written_once() -> None:
    series = Series()
    series.see(list(range(SLOTS)))
    assert series.cut(SLOTS, fails=False)
    series.see([3, 7])
    assert series.cut(SLOTS, fails=False)
    assert series.cut(SLOTS, fails=False)
    cuts = [cut for cut, *_ in series.parts]
    assert [cut.slots.tolist() for cut in cuts] == [list(range(SLOTS)), [], []]
    assert [cut.named.tolist() for cut in cuts] == [list(range(SLOTS)), [], []]
    assert [cut.added.tolist() for cut in cuts] == [[], [3, 7], []]


def test_of_a_series_that_was_written_only_new_rows_are_until_they_are_many() -> None:
    series = Series()
    series.see([0, 1])
    assert series.cut(SLOTS, fails=False)
    rows = []
    for count in (1, MOST_ROWS, MOST_ROWS + 1, 1, MOST_ADDED + 2, 1):
        series.see([0] * count)
        series.see([1], adds=False)
        assert series.cut(SLOTS, fails=False)
        cut = series.parts[-1][0]
        rows.append((cut.slots.tolist(), cut.added.tolist(), cut.rows.tolist()))
        assert series.restored == series.state
    assert rows == [
        ([], [0, 1], [1, 0]),
        ([], [0, 1], [MOST_ROWS, 0]),
        ([0], [1], [0]),
        ([], [0, 1], [1, 0]),
        ([0], [1], [0]),
        ([], [0, 1], [1, 0]),
    ]


def test_rows_of_a_part_that_failed_stand_in_the_next_one() -> None:
    series = Series()
    series.see([0, 1])
    assert series.cut(SLOTS, fails=False)
    for _ in range(2):
        series.see([0])
        assert not series.cut(SLOTS, fails=True)
    series.see([0])
    series.rescale([1])
    assert not series.cut(SLOTS, fails=True)
    assert series.cut(SLOTS, fails=False)
    cut = series.parts[-1][0]
    assert (cut.slots.tolist(), cut.added.tolist(), cut.rows.tolist()) == ([1], [0], [3])
    assert series.restored == series.state


def test_a_part_has_room_for_more_series_that_are_added_to() -> None:
    changes, every, all_S = Changes(MOST_ROWS), np.arange(9), np.ones(9, np.bool_)
    changes.own(every)
    small = Room(30, 10, 4)
    assert [changes.take(HERE, all_S, small).slots.tolist() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    changes.touch(every)
    changes.alter(np.array([1]))
    cuts = [changes.take(HERE, all_S, small) for _ in range(2)]
    assert [(cut.slots.tolist(), cut.added.tolist(), cut.closes) for cut in cuts] == [
        ([1], [0, 2, 3, 4, 5], False),
        ([], [6, 7, 8], True),
    ]
    changes.alter(every)
    changes.touch(every)
    assert changes.take(HERE, all_S, Room(1, 10, 4)).slots.tolist() == [0]


def written_slots(cut: Cut) -> list[int]:
    return sorted([*cut.slots.tolist(), *cut.added.tolist()])


def test_a_sweep_passes_every_series_before_one_comes_again() -> None:
    series = Series()
    series.see(list(range(SLOTS)))
    written: list[int] = []
    while not series.cut(2, fails=False):
        written += written_slots(series.parts[-1][0])
        if len(written) < 8:
            series.see([0])
    assert written == list(range(SLOTS))
    assert written_slots(series.parts[-1][0]) == [0]


def test_series_that_change_as_quickly_as_they_are_written_end_in_larger_parts() -> None:
    series = Series()
    sizes: list[int] = []
    closes = False
    while not closes:
        series.see(list(range(SLOTS)))
        closes = series.cut(2, fails=False)
        sizes.append(len(written_slots(series.parts[-1][0])))
    assert sizes == [2] * 6 + [4] * 3 + [8, 4] + [12]
    series.see(list(range(SLOTS)))
    assert not series.cut(2, fails=False)
    assert len(written_slots(series.parts[-1][0])) == 2


def test_storage_that_takes_nothing_makes_no_part_larger() -> None:
    series = Series()
    series.see(list(range(SLOTS)))
    for _ in range(50):
        series.see([0])
        assert not series.cut(2, fails=True)
    assert not series.cut(2, fails=False)
    assert series.parts[-1][0].slots.tolist() == [0, 1]


def test_partitions_are_kept_apart() -> None:
    changes = Changes(MOST_ROWS)
    changes.own(np.arange(3))
    here_S, there_S = np.array([True, False, True]), np.array([False, True, False])
    assert changes.take(HERE, here_S, room(9)).slots.tolist() == [0, 2]
    assert changes.take(THERE, there_S, room(9)).slots.tolist() == [1]
    changes.begin_chain(HERE, here_S)
    assert changes.take(THERE, there_S, room(9)).slots.tolist() == []
    assert changes.take(HERE, here_S, room(9)).named.tolist() == [0, 2]


def test_a_failure_that_is_told_late_does_not_touch_another_chain() -> None:
    changes, both_S = Changes(MOST_ROWS), np.ones(2, np.bool_)
    changes.own(np.array([0, 1]))
    late = changes.take(HERE, both_S, room(9))
    changes.forget(HERE, np.array([0, 1]))
    changes.own(np.array([1]))
    assert changes.take(HERE, both_S, room(9)).named.tolist() == [1]
    changes.put_back(HERE, both_S, late)
    assert changes.take(HERE, both_S, room(9)).slots.tolist() == []
