"""The loopback store does for `ObjectStorage` what a folder does, and fails as it is told to."""

from collections.abc import Iterator

import pytest

from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import TransientError
from tests.chaos.object_store import LoopbackStore


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackStore]:
    made = LoopbackStore()
    for name, text in made.environment.items():
        monkeypatch.setenv(name, text)
    yield made
    made.close()


def test_it_keeps_objects_as_a_bucket_does(store: LoopbackStore) -> None:
    storage = ObjectStorage(store.url)
    assert storage.get("a/1") is None
    assert storage.list("a") == []
    storage.put("a/1", b"first")
    storage.put("a/1", b"second")
    storage.put("a/2", b"")
    storage.put("ab/3", b"elsewhere")
    assert not storage.create("a/1", b"third")
    assert storage.create("a/b/4", b"fourth")
    assert storage.list("a") == ["a/1", "a/2", "a/b/4"]
    assert [storage.get(name) for name in storage.list("a")] == [b"second", b"", b"fourth"]
    storage.delete("a/1")
    storage.delete("never")
    assert storage.list("a") == ["a/2", "a/b/4"]


def test_it_fails_as_told_and_heals(store: LoopbackStore) -> None:
    storage = ObjectStorage(store.url)
    storage.put("a", b"kept")
    store.full = True
    with pytest.raises(TransientError, match="cannot write b"):
        storage.put("b", b"too much")
    assert storage.get("a") == b"kept"
    store.heal()
    store.failing = True
    with pytest.raises(TransientError, match="cannot read a"):
        storage.get("a")
    store.heal()
    assert storage.get("a") == b"kept"
    assert storage.get("b") is None
