"""The index finds what a dictionary would, after any course of names that come and go."""

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.stages import name_index
from pipeline.stages.name_index import NameIndex

NAMES = [f"n{number}" for number in range(300)]


class ComeAndGo(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = NameIndex()
        self.index.grow(2 * len(NAMES))
        self.free = list(range(2 * len(NAMES)))
        self.there: dict[tuple[int, str], int] = {}

    @rule(names=st.sets(st.sampled_from(NAMES)), group=st.sampled_from([0, 7]))
    def come(self, names: set[str], group: int) -> None:
        new = [name for name in sorted(names) if (group, name) not in self.there]
        slots = [self.free.pop() for _ in new]
        self.index.add(np.array(slots, np.int64), new, group)
        self.there |= {(group, name): slot for name, slot in zip(new, slots, strict=True)}

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def go(self, data: Any) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.there)), unique=True, max_size=40))
        slots = [self.there.pop(key) for key in gone]
        self.index.hide(np.array(slots, np.int64))
        assert [self.index.names[slot] for slot in slots] == [name for _, name in gone]
        self.index.forget(np.array(slots, np.int64))
        self.free += slots

    @invariant()
    def finds_what_is_there(self) -> None:
        for group in (0, 7):
            slots = [self.there.get((group, name), -1) for name in NAMES]
            assert self.index.find(NAMES, group).tolist() == slots
            assert self.index.of_group(group).tolist() == sorted(slot for slot in slots if slot >= 0)


TestComeAndGo = ComeAndGo.TestCase


def test_names_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_index, "_tags", lambda names, group: np.full(len(names), 5, np.uint32))
    index = NameIndex()
    index.grow(50)
    index.add(np.arange(50), NAMES[:50], 0)
    index.hide(np.arange(0, 50, 2))
    assert index.find(NAMES[:51], 0).tolist() == [slot if slot % 2 else -1 for slot in range(50)] + [-1]
