"""Several who change a stream's versions at once, one of them killed: at every moment one champion, and whole."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.manifest import whole
from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.registry import StoredRegistry
from pipeline.errors import ConfigError, RegistryError
from pipeline.versions.log import Promotion
from pipeline.versions.naming import resolve
from pipeline.versions.promoting import PROMOTE, ROLLBACK, promote, served_before
from pipeline.versions.pruning import carry_out, plan
from tests.interleaving import Killed, Program
from tests.pipeline.versions.desks import day_ms, train, verify

Act = Callable[[StoredRegistry], None]


def training(day: int) -> Act:
    return lambda registry: void(train(registry, day))


def void(_: object) -> None: ...


def promoting(prefix: str) -> Act:
    def act(registry: StoredRegistry) -> None:
        log = registry.log("machines")
        version = resolve("machines", prefix, registry.versions("machines"), None)
        promote(registry, "machines", log, version, PROMOTE, 0, verify)

    return act


def rolling_back(registry: StoredRegistry) -> None:
    log = registry.log("machines")
    before = served_before(log.tail)
    if before is not None:
        promote(registry, "machines", log, before, ROLLBACK, 0, verify)


def pruning(keep: int) -> Act:
    def act(registry: StoredRegistry) -> None:
        log = registry.log("machines")
        versions, unfinished = registry.versions("machines"), registry.unfinished("machines")
        asked: dict[str, Any] = {"keep": keep, "older_than_ms": None, "now_ms": day_ms(100)}
        carry_out(registry, "machines", log, plan("machines", versions, unfinished, log, [], **asked), 0)

    return act


acts = st.one_of(
    st.integers(0, 9).map(training),
    st.integers(0, 9).map(lambda day: promoting(f"202601{day + 1:02d}")),
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


@given(
    st.lists(acts, max_size=4),
    st.lists(acts, min_size=2, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=30),
    st.integers(0, 60),
)
def test_at_every_moment_there_is_one_champion_and_it_is_whole(
    before: list[Act], together: list[Act], turns: list[tuple[int, int]], killed_at: int
) -> None:
    storage = MemoryStorage()
    for act in (training(0), training(1), *before):
        with suppress(RegistryError, ConfigError):
            act(StoredRegistry(storage))
    watch = Watch(storage)
    programs = [Program(storage, lambda own, act=act: act(StoredRegistry(own))) for act in together]  # type: ignore[misc]
    calls = 0
    # After the drawn turns each has what it needs to end.
    for number, times in [*turns, *((number, 100) for number in range(len(programs)))]:
        program = programs[number % len(programs)]
        for _ in range(times):
            if calls == killed_at:
                program.kill()
            program.step()
            calls += 1
            watch.look()
    for program in programs:
        assert program.ended
        assert isinstance(program.error, RegistryError | ConfigError | Killed | None), program.error
    # What was interrupted is mended by the next ones.
    for act in (training(20), pruning(0)):
        act(StoredRegistry(storage))
    watch.look()
    assert len(StoredRegistry(storage).versions("machines")) == 2
    assert StoredRegistry(storage).unfinished("machines") == []
