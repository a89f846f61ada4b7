"""What parts hold: whatever changes, is written, fails or goes, they make up the state when one closes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.changes import Changes, Cut
from pipeline.protocols import TopicPartition

HERE, THERE = TopicPartition("metrics", 0), TopicPartition("metrics", 1)
SLOTS = 12


class Series:
    """A state of counters by name on few slots, and what its parts make of it."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.name_of: dict[int, str] = {}
        self.count = np.zeros(SLOTS, np.int64)
        self.born = 0
        self.parts: list[tuple[Cut, dict[int, str], dict[int, int]]] = []
        self.changes.own(np.zeros(0, np.int64))

    def see(self, slots: list[int]) -> None:
        for slot in slots:
            if slot not in self.name_of:
                self.born += 1
                self.name_of[slot] = f"s{self.born}"
                self.changes.own(np.array([slot]))
            self.count[slot] += 1
        self.changes.touch(np.array(slots, np.int64))

    def evict(self, slots: list[int]) -> None:
        gone = [slot for slot in set(slots) if slot in self.name_of]
        self.changes.release(HERE, np.array(gone, np.int64))
        for slot in gone:
            del self.name_of[slot]
            self.count[slot] = 0

    def cut(self, most: int, *, fails: bool) -> bool:
        cut = self.changes.take(HERE, self.count > 0, most)
        if fails:
            self.changes.put_back(HERE, self.count > 0, cut)
            return False
        names = {slot: self.name_of[slot] for slot in cut.named.tolist()}
        self.parts.append((cut, names, {slot: int(self.count[slot]) for slot in cut.slots.tolist()}))
        return cut.closes

    def renew(self) -> None:
        self.changes.begin_chain(HERE, self.count > 0)
        self.parts = []

    @property
    def state(self) -> dict[str, int]:
        return {name: int(self.count[slot]) for slot, name in self.name_of.items()}

    @property
    def restored(self) -> dict[str, int]:
        """What a reader of the parts finds, who knows nothing else."""
        name_of: dict[int, str] = {}
        counts: dict[str, int] = {}
        for cut, names, rows in self.parts:
            for slot in [*cut.dropped.tolist(), *names]:
                counts.pop(name_of.pop(slot, ""), None)
            name_of |= names
            counts |= {name_of[slot]: count for slot, count in rows.items()}
        return counts


SOME = st.lists(st.integers(0, SLOTS - 1), max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("see"), SOME),
        st.tuples(st.just("see"), SOME),
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
    assert [cut.slots.tolist() for cut, _, _ in series.parts] == [list(range(SLOTS)), [3, 7], []]
    assert [cut.named.tolist() for cut, _, _ in series.parts] == [list(range(SLOTS)), [], []]


def test_a_sweep_passes_every_series_before_one_comes_again() -> None:
    series = Series()
    series.see(list(range(SLOTS)))
    written: list[int] = []
    while not series.cut(2, fails=False):
        written += series.parts[-1][0].slots.tolist()
        if len(written) < 8:
            series.see([0])
    assert written == list(range(SLOTS))
    assert series.parts[-1][0].slots.tolist() == [0]


def test_series_that_change_as_quickly_as_they_are_written_end_in_larger_parts() -> None:
    series = Series()
    sizes: list[int] = []
    closes = False
    while not closes:
        series.see(list(range(SLOTS)))
        closes = series.cut(2, fails=False)
        sizes.append(len(series.parts[-1][0].slots))
    assert sizes == [2] * 6 + [4] * 3 + [8, 4] + [12]
    series.see(list(range(SLOTS)))
    assert not series.cut(2, fails=False)
    assert len(series.parts[-1][0].slots) == 2


def test_storage_that_takes_nothing_makes_no_part_larger() -> None:
    series = Series()
    series.see(list(range(SLOTS)))
    for _ in range(50):
        series.see([0])
        assert not series.cut(2, fails=True)
    assert not series.cut(2, fails=False)
    assert series.parts[-1][0].slots.tolist() == [0, 1]


def test_partitions_are_kept_apart() -> None:
    changes = Changes()
    changes.own(np.arange(3))
    here_S, there_S = np.array([True, False, True]), np.array([False, True, False])
    assert changes.take(HERE, here_S, 9).slots.tolist() == [0, 2]
    assert changes.take(THERE, there_S, 9).slots.tolist() == [1]
    changes.begin_chain(HERE, here_S)
    assert changes.take(THERE, there_S, 9).slots.tolist() == []
    assert changes.take(HERE, here_S, 9).named.tolist() == [0, 2]


def test_a_failure_that_is_told_late_does_not_touch_another_chain() -> None:
    changes, both_S = Changes(), np.ones(2, np.bool_)
    changes.own(np.array([0, 1]))
    late = changes.take(HERE, both_S, 9)
    changes.forget(HERE, np.array([0, 1]))
    changes.own(np.array([1]))
    assert changes.take(HERE, both_S, 9).named.tolist() == [1]
    changes.put_back(HERE, both_S, late)
    assert changes.take(HERE, both_S, 9).slots.tolist() == []
