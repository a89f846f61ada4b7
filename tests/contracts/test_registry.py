"""One suite for `Registry`: on the twin and on a folder."""

import threading
from pathlib import Path

import pytest

from pipeline.connectors.memory import MemoryRegistry
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import RegistryError
from pipeline.protocols import ModelVersion, Promotion, Registry


@pytest.fixture(params=["twin", "folder"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return MemoryRegistry() if request.param == "twin" else StoredRegistry(ObjectStorage(tmp_path.as_uri()))


def version(name: str) -> ModelVersion:
    return ModelVersion("machines", name, {"model.safetensors": b"\x00\x01", "manifest.json": b"{}"})


def test_versions_come_back_whole_and_never_change(registry: Registry) -> None:
    assert list(registry.versions("machines")) == []
    registry.add(version("v2"))
    registry.add(version("v1"))
    assert list(registry.versions("machines")) == ["v1", "v2"]
    assert registry.load("machines", "v1") == version("v1")
    with pytest.raises(RegistryError, match="machines v1: this version is there already"):
        registry.add(version("v1"))


def test_what_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="model machines v9: not in"):
        registry.load("machines", "v9")


def test_the_log_keeps_its_order_and_each_number_is_won_once(registry: Registry) -> None:
    assert list(registry.promotions("machines")) == []
    for number, name in ((1, "v1"), (2, "v2"), (3, "v1")):
        registry.promote("machines", Promotion(number, name, 1000 + number, "test"))
    with pytest.raises(RegistryError, match="promotion 3 was made by someone else"):
        registry.promote("machines", Promotion(3, "v9", 0, "a late leader"))
    assert [each.version for each in registry.promotions("machines")] == ["v1", "v2", "v1"]
    assert list(registry.promotions("others")) == []


def test_of_two_who_promote_the_same_number_one_wins(tmp_path: Path) -> None:
    registries = [StoredRegistry(ObjectStorage(tmp_path.as_uri())) for _ in range(2)]
    together, refused = threading.Barrier(2), []

    def promote(registry: StoredRegistry, version: str) -> None:
        together.wait(10)
        try:
            registry.promote("machines", Promotion(1, version, 1, "race"))
        except RegistryError:
            refused.append(version)

    threads = [threading.Thread(target=promote, args=each) for each in zip(registries, ("a", "b"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    (promotion,) = registries[0].promotions("machines")
    assert {promotion.version, *refused} == {"a", "b"}
    assert len(refused) == 1


def test_a_version_without_its_manifest_is_not_there(tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    storage.put("models/machines/versions/v1/model.safetensors", b"half")
    registry = StoredRegistry(storage)
    assert list(registry.versions("machines")) == []
    with pytest.raises(RegistryError, match="not complete"):
        registry.load("machines", "v1")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", b'{"number": 1, "version": 3, "promoted_ms": 0, "reason": ""}'],
)
def test_a_damaged_promotion_is_named(content: bytes, tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    storage.put("models/machines/promotions/00000001.json", content)
    with pytest.raises(RegistryError, match=r"00000001\.json: damaged promotion"):
        StoredRegistry(storage).promotions("machines")
