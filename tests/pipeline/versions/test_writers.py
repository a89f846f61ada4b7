"""Several who change a stream's versions at once, one of them killed: at every moment one champion, and whole."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import whole
from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.registry import StoredRegistry
from pipeline.errors import ConfigError, RegistryError
from pipeline.versions.log import Promotion
from pipeline.versions.promoting import PROMOTE, ROLLBACK, promote, served_before
from pipeline.versions.pruning import carry_out, plan
from tests.interleaving import Killed, Program
from tests.pipeline.versions.desks import day_ms, train, verify

Act = Callable[[StoredRegistry], None]


NOW = 10
"""The day of all that happens at once."""


def training(number: int, day: float = NOW) -> Act:
    return lambda registry: void(train(registry, day + number / 100))


def void(_: object) -> None: ...


def promoting(place: int) -> Act:
    def act(registry: StoredRegistry) -> None:
        log, versions = registry.log("machines"), registry.versions("machines")
        promote(registry, "machines", log, versions[place % len(versions)], PROMOTE, 0, verify)

    return act


def rolling_back(registry: StoredRegistry) -> None:
    log = registry.log("machines")
    before = served_before(log.tail)
    if before is not None:
        promote(registry, "machines", log, before, ROLLBACK, 0, verify)


def pruning(keep: int, day: float = NOW + 1) -> Act:
    def act(registry: StoredRegistry) -> None:
        log = registry.log("machines")
        versions, unfinished = registry.versions("machines"), registry.unfinished("machines")
        asked: dict[str, Any] = {"keep": keep, "older_than_ms": None, "now_ms": day_ms(day)}
        carry_out(registry, "machines", log, plan("machines", versions, unfinished, log, [], **asked), 0)

    return act


acts = st.one_of(
    st.integers(0, 9).map(training),
    st.integers(0, 4).map(promoting),
    st.just(rolling_back),
    st.integers(0, 2).map(pruning),
)


class Watch:
    """Looks at storage after each call that has changed it."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage, self._registry = storage, StoredRegistry(storage)
        self._seen: list[Promotion] = []
        self._objects: dict[str, bytes] = {}

    def look(self) -> None:
        # By identity, for the contents are long.
        now = self._storage.objects
        if now.keys() == self._objects.keys() and all(now[name] is self._objects[name] for name in now):
            return
        self._objects = dict(now)
        log = self._registry.log("machines")
        assert log.faults == []
        assert list(log.entries[: len(self._seen)]) == self._seen, "an entry was changed"
        self._seen = list(log.entries)
        for version in self._registry.versions("machines"):
            whole(self._registry.load("machines", version).files)
        champion = self._registry.champion("machines")
        assert champion == log.champion
        if champion is not None:
            assert champion.version not in log.removed
            assert champion.version in self._registry.versions("machines")


def stored(*acts: Act) -> MemoryStorage:
    """Return storage on which this was done, one after the other, behind four trainings."""
    storage = MemoryStorage()
    for act in (*(training(0, day) for day in range(4)), *acts):
        with suppress(RegistryError, ConfigError):
            act(StoredRegistry(storage))
    return storage


def program(storage: MemoryStorage, act: Act) -> Program:
    return Program(storage, lambda own: act(StoredRegistry(own)))


def mended(storage: MemoryStorage, watch: Watch) -> None:
    """Whatever was interrupted, the next ones go on."""
    for act in (training(20), pruning(0, NOW + 9)):
        act(StoredRegistry(storage))
    watch.look()
    assert len(StoredRegistry(storage).versions("machines")) == 2
    assert StoredRegistry(storage).unfinished("machines") == []


ACTS = {"train": training(7), "promote": promoting(0), "rollback": rolling_back, "prune": pruning(0)}


@pytest.mark.parametrize("second", ACTS)
@pytest.mark.parametrize("first", ACTS)
def test_one_acts_between_any_two_calls_of_another(first: str, second: str) -> None:
    cut, ended = 0, False
    while not ended:
        storage = stored()
        watch, one = Watch(storage), program(storage, ACTS[first])
        for _ in range(cut):
            one.step()
            watch.look()
        ended = one.ended
        for each in (program(storage, ACTS[second]), one):
            while not each.ended:
                each.step()
                watch.look()
            assert isinstance(each.error, RegistryError | None), each.error
        mended(storage, watch)
        cut += 1
    assert cut > 5


@pytest.mark.parametrize("act", ACTS)
def test_one_is_killed_before_any_call(act: str) -> None:
    cut, ended = 0, False
    while not ended:
        storage = stored()
        watch, one = Watch(storage), program(storage, ACTS[act])
        for _ in range(cut):
            one.step()
        ended = one.ended
        one.kill()
        watch.look()
        mended(storage, watch)
        cut += 1
    assert cut > 5


@given(
    st.lists(acts, max_size=4),
    st.lists(acts, min_size=2, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=8),
    st.integers(0, 60),
)
@settings(max_examples=50)
def test_at_every_moment_there_is_one_champion_and_it_is_whole(
    before: list[Act], together: list[Act], turns: list[tuple[int, int]], killed_at: int
) -> None:
    storage = stored(*before)
    watch = Watch(storage)
    programs = [program(storage, act) for act in together]
    calls = 0
    # After the drawn turns each has what it needs to end.
    for number, times in [*turns, *((number, 100) for number in range(len(programs)))]:
        chosen = programs[number % len(programs)]
        for _ in range(times):
            if calls == killed_at:
                chosen.kill()
            chosen.step()
            calls += 1
            watch.look()
    for each in programs:
        assert each.ended
        assert isinstance(each.error, RegistryError | Killed | None), each.error
    mended(storage, watch)
