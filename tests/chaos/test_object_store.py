"""The loopback store fails as it is told to; what it does otherwise is in `tests/contracts/test_storage.py`."""

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
