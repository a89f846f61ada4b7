"""One suite for `Registry`: on the twin, on a folder and on a bucket."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.connectors.memory import MemoryRegistry, MemoryStorage
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import PromotionLost, RegistryError
from pipeline.protocols import ModelVersion, Registry
from pipeline.versions.log import Promotion


@pytest.fixture(params=["twin", "folder", "bucket"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "twin":
        return MemoryRegistry()
    url = tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket")
    return StoredRegistry(ObjectStorage(url))


def version(name: str) -> ModelVersion:
    return ModelVersion("machines", name, {"model.safetensors": b"\x00\x01", "manifest.json": b"{}"})


def test_versions_come_back_whole_and_never_change(registry: Registry) -> None:
    assert list(registry.versions("machines")) == []
    registry.add(version("v2"))
    registry.add(version("v1"))
    assert list(registry.versions("machines")) == ["v1", "v2"]
    assert registry.load("machines", "v1") == version("v1")
    registry.add(version("v1"))
    changed = ModelVersion("machines", "v1", {"model.safetensors": b"\x00\x02", "manifest.json": b"{}"})
    with pytest.raises(RegistryError, match="machines v1: this version is there already and never changes"):
        registry.add(changed)
    assert registry.load("machines", "v1") == version("v1")


def test_what_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="model machines v9: not in"):
        registry.load("machines", "v9")


def test_the_log_keeps_its_order_and_each_number_is_won_once(registry: Registry) -> None:
    assert list(registry.log("machines").entries) == []
    for number, name in ((1, "v1"), (2, "v2"), (3, "v1")):
        registry.promote("machines", Promotion(number, name, 1000 + number, "test"))
    with pytest.raises(PromotionLost, match="promotion 3 was made by someone else"):
        registry.promote("machines", Promotion(3, "v9", 0, "a late leader"))
    assert [each.version for each in registry.log("machines").entries] == ["v1", "v2", "v1"]
    assert registry.champion("others") is None
    log = registry.log("others")
    assert (list(log.entries), log.last_number, log.champion) == ([], 0, None)


def test_an_entry_comes_back_with_all_it_says(registry: Registry) -> None:
    entry = Promotion(1, "v1", 1000, "test", "a ü note", "me@here", ("v0",))
    registry.promote("machines", entry)
    assert list(registry.log("machines").entries) == [entry]


def test_who_serves_is_told_by_the_number_whatever_the_clock_says(registry: Registry) -> None:
    registry.promote("machines", Promotion(1, "v1", 7_200_000, "test"))
    registry.promote("machines", Promotion(2, "v2", 3_600_000, "an hour back"))
    champion = registry.champion("machines")
    assert champion is not None
    assert (champion.number, champion.version) == (2, "v2")
    assert registry.log("machines").champion == champion


def test_versions_out_of_service_leave_the_champion_as_it_is(registry: Registry) -> None:
    registry.promote("machines", Promotion(1, "v1", 1000, "test"))
    registry.promote("machines", Promotion(2, "v1", 2000, "prune", removed=("v0",)))
    champion = registry.champion("machines")
    assert champion is not None
    assert champion.number == 1
    log = registry.log("machines")
    assert (log.champion, log.last_number, log.removed) == (champion, 2, frozenset({"v0"}))


def test_an_answer_that_was_lost_loses_no_promotion(registry: Registry) -> None:
    """The client tries again by itself, and meets what it wrote; another's entry of the same words is another's."""
    mine = Promotion(1, "v1", 1000, "test")
    registry.promote("machines", mine)
    registry.promote("machines", mine)
    with pytest.raises(PromotionLost):
        registry.promote("machines", Promotion(1, "v1", 1000, "test"))


def test_a_version_that_was_interrupted_is_completed_by_the_same_one(registry: Registry) -> None:
    half = ModelVersion("machines", "v1", {"model.safetensors": b"\x00\x01"})
    registry.add(half)
    assert list(registry.versions("machines")) == []
    assert list(registry.unfinished("machines")) == ["v1"]
    registry.add(version("v1"))
    assert list(registry.versions("machines")) == ["v1"]
    assert list(registry.unfinished("machines")) == []


def test_a_version_that_is_removed_is_gone_whole(registry: Registry) -> None:
    for name in ("v1", "v10"):
        registry.add(version(name))
    registry.remove("machines", "v1")
    registry.remove("machines", "never")
    assert list(registry.versions("machines")) == ["v10"]
    assert list(registry.unfinished("machines")) == []
    assert registry.file("machines", "v1", "model.safetensors") is None
    assert registry.file("machines", "v10", "model.safetensors") == b"\x00\x01"


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_of_two_who_promote_the_same_number_one_wins(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = tmp_path.as_uri() if kind == "folder" else request.getfixturevalue("bucket")
    registries = [StoredRegistry(ObjectStorage(url)) for _ in range(2)]
    together = threading.Barrier(2)

    def promote(registry: StoredRegistry, version: str) -> str | None:
        together.wait(10)
        try:
            registry.promote("machines", Promotion(1, version, 1, "race"))
        except PromotionLost:
            return version
        return None

    with ThreadPoolExecutor(2) as pool:
        refused = [lost for lost in pool.map(promote, registries, ("a", "b")) if lost]
    (promotion,) = registries[0].log("machines").entries
    assert sorted([promotion.version, *refused]) == ["a", "b"]


def test_a_version_without_its_manifest_is_not_there(tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    storage.put("models/machines/versions/v1/model.safetensors", b"half")
    registry = StoredRegistry(storage)
    assert list(registry.versions("machines")) == []
    with pytest.raises(RegistryError, match="not complete"):
        registry.load("machines", "v1")


def entries(registry: Registry, count: int = 4) -> None:
    for number in range(1, count + 1):
        registry.promote("machines", Promotion(number, f"v{number}", number, "test"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"number": 3, "version": 3, "promoted_ms": 0, "reason": ""}',
        b'{"number": 4, "version": "v4", "promoted_ms": 0, "reason": ""}',
        None,
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_or_missing_entry_is_named_and_who_serves_is_known(number: int, content: bytes | None) -> None:
    registry = MemoryRegistry()
    entries(registry)
    name = f"models/machines/promotions/{number:08d}.json"
    if content is None:
        registry.storage.delete(name)
    else:
        registry.storage.put(name, content)
    fault = "missing from the log" if content is None else "damaged promotion"
    champion = registry.champion("machines")
    assert champion is not None
    assert champion.version == "v4"
    log = registry.log("machines")
    assert log.champion == champion
    assert [entry.number for entry in log.tail] == list(range(number + 1, 5))
    assert len(log.entries) == 3
    (told,) = log.faults
    assert re.search(rf"0{number}\.json: {fault}.*; put (it )?back", told)


def test_a_damaged_last_entry_is_never_passed_over_and_the_next_one_mends_it() -> None:
    registry = MemoryRegistry()
    entries(registry)
    registry.storage.put("models/machines/promotions/00000004.json", b"{")
    with pytest.raises(
        RegistryError, match=r"00000004\.json: damaged promotion .*offkey models promote CONFIG machines"
    ):
        registry.champion("machines")
    log = registry.log("machines")
    assert (log.champion, log.last_number, len(log.tail)) == (None, 4, 0)
    registry.promote("machines", Promotion(5, "v3", 5, "mended"))
    champion = registry.champion("machines")
    assert champion is not None
    assert champion.version == "v3"


def test_other_objects_beside_the_entries_are_none() -> None:
    registry = MemoryRegistry()
    entries(registry, 2)
    for name in ("notes.txt", "9.json", "00000007.json.bak", "x/00000008.json", "-0000001.json", "²²²²²²²².json"):
        registry.storage.put(f"models/machines/promotions/{name}", b"mine")
    assert [entry.number for entry in registry.log("machines").entries] == [1, 2]


class ListsLate(MemoryStorage):
    """A store that shows some objects in no listing yet."""

    hidden: tuple[str, ...] = ()

    def list(self, folder: str) -> list[str]:
        return [name for name in super().list(folder) if not name.endswith(self.hidden)]


@pytest.mark.parametrize(
    "hidden", [("1.json",), ("2.json", "3.json"), ("4.json",), ("3.json", "4.json"), (".json",)]
)
def test_a_listing_that_is_late_hides_no_entry(hidden: tuple[str, ...]) -> None:
    storage = ListsLate()
    registry = StoredRegistry(storage)
    entries(registry)
    storage.hidden = hidden
    champion = registry.champion("machines")
    assert champion is not None
    assert champion.version == "v4"
    assert [entry.version for entry in registry.log("machines").entries] == ["v1", "v2", "v3", "v4"]
