"""What may go, and what stays whatever is asked."""

from typing import Any

import pytest

from pipeline.connectors.memory import MemoryRegistry
from pipeline.errors import PromotionLost, RegistryError
from pipeline.protocols import ModelVersion, TopicPartition
from pipeline.versions.promoting import PROMOTE, ROLLBACK, promote
from pipeline.versions.pruning import Pruning, carry_out, plan
from pipeline.versions.usage import Serving
from tests.pipeline.versions.desks import DAY_MS, day_ms, log_of, names, train, trained, verify


def planned(registry: MemoryRegistry, keep: int = 0, **asked: Any) -> Pruning:
    return plan(
        "machines",
        names(registry),
        registry.unfinished("machines"),
        registry.log("machines"),
        asked.pop("serving", []),
        **{"keep": keep, "older_than_ms": None, "now_ms": day_ms(100), **asked},
    )


def pruned(registry: MemoryRegistry, **asked: Any) -> None:
    carry_out(registry, "machines", registry.log("machines"), planned(registry, **asked), 0)


def on(version: str | None) -> Serving:
    return Serving(TopicPartition("metrics", 3), version, 10, 0)


def test_champion_rollback_target_and_what_is_in_use_stay() -> None:
    registry, (a, b, c, d, e) = trained(5)
    found = planned(registry, serving=[on(b)])
    assert found.removed == (a, c)
    assert dict(found.kept) == {
        b: "in use: the newest checkpoint of metrics/3 names it",
        d: "served before; a rollback goes to it",
        e: "champion",
    }
    promote(registry, "machines", registry.log("machines"), a, ROLLBACK, 0, verify)
    assert planned(registry).removed == (b, c, d, e)
    promote(registry, "machines", registry.log("machines"), c, PROMOTE, 0, verify)
    assert planned(registry).removed == (b, d, e)


@pytest.mark.parametrize(("keep", "gone"), [(0, 3), (1, 3), (2, 3), (3, 2), (4, 1), (5, 0), (99, 0)])
def test_the_newest_stay(keep: int, gone: int) -> None:
    registry, versions = trained(5)
    assert planned(registry, keep=keep).removed == tuple(versions[:gone])


def test_only_what_is_older_goes() -> None:
    registry, versions = trained(5)
    asked = {"older_than_ms": 10 * DAY_MS}
    assert planned(registry, now_ms=day_ms(11), **asked).removed == tuple(versions[:1])
    assert planned(registry, now_ms=day_ms(10), **asked).removed == ()
    assert planned(registry, now_ms=day_ms(-1), **asked).removed == ()
    assert planned(registry, now_ms=day_ms(100), keep=4, **asked).removed == tuple(versions[:1])


def test_a_name_without_an_age_is_not_older_than_anything() -> None:
    registry, _ = trained(3)
    registry.add(ModelVersion("machines", "mine", {"manifest.json": b"{}"}))
    found = planned(registry, older_than_ms=1)
    assert dict(found.kept)["mine"] == "its name does not tell how old it is"
    assert "mine" in planned(registry).removed


def test_what_is_about_to_be_promoted_stays() -> None:
    registry, versions = trained(3)
    young = ModelVersion("machines", "20260110T000000-young", {"manifest.json": b"{}"})
    registry.add(young)
    found = planned(registry, now_ms=day_ms(10))
    assert dict(found.kept)[young.version] == "trained within a day, and not promoted yet"
    assert found.removed == tuple(versions[:1])
    assert young.version in planned(registry, now_ms=day_ms(10.1)).removed


def test_it_is_gone_and_the_log_says_who_took_it() -> None:
    registry, (a, b, c) = trained(3)
    pruned(registry)
    assert list(names(registry)) == [b, c]
    assert not registry.storage.list(f"models/machines/versions/{a}")
    log = registry.log("machines")
    assert (log.last_number, log.removed, log.champion and log.champion.number) == (4, frozenset({a}), 3)
    pruned(registry)
    assert registry.log("machines").last_number == 4


def test_what_was_taken_out_of_service_never_serves_again() -> None:
    registry, (a, _, _) = trained(3)
    log = registry.log("machines")
    found = planned(registry)
    carry_out(registry, "machines", log, found, 0)
    with pytest.raises(PromotionLost):
        promote(registry, "machines", log, found.kept[0][0], PROMOTE, 0, verify)
    train(registry, 7)
    with pytest.raises(RegistryError, match="removed by `offkey models prune`; promote another version"):
        promote(registry, "machines", registry.log("machines"), a, PROMOTE, 0, verify)


def test_a_promotion_that_came_first_keeps_everything() -> None:
    registry, versions = trained(3)
    log, found = registry.log("machines"), planned(registry)
    promote(registry, "machines", log, versions[0], PROMOTE, 0, verify)
    with pytest.raises(PromotionLost):
        carry_out(registry, "machines", log, found, 0)
    assert list(names(registry)) == versions


def test_a_hole_behind_which_the_rollback_target_lies_stops_it() -> None:
    registry, versions = trained(4)
    registry.storage.delete("models/machines/promotions/00000003.json")
    with pytest.raises(
        RegistryError, match=r"what served before \S+ is not known, and so nothing is removed; .*03.json"
    ):
        planned(registry)
    train(registry, 4)
    assert planned(registry).removed == tuple(versions[:3])


def test_a_champion_that_is_not_known_stops_it() -> None:
    registry, _ = trained(2)
    registry.storage.put("models/machines/promotions/00000002.json", b"{")
    with pytest.raises(RegistryError, match=r"has no champion, and so nothing is removed; .*02\.json: damaged"):
        planned(registry)
    alone = MemoryRegistry()
    alone.add(ModelVersion("machines", "v1", {"manifest.json": b"{}"}))
    with pytest.raises(RegistryError, match="promote one: offkey models promote CONFIG machines VERSION"):
        planned(alone)
    assert planned(MemoryRegistry()) == Pruning((), (), [])


def test_a_checkpoint_that_does_not_tell_stops_it() -> None:
    registry, _ = trained(3)
    with pytest.raises(RegistryError, match="newest checkpoint of metrics/3 does not tell which version serves"):
        planned(registry, serving=[on(None)])


def test_what_a_killed_training_or_prune_left_goes_but_not_what_is_being_written() -> None:
    registry, versions = trained(3)
    for name in ("20260101T000000-dead", "20260410T120000-alive", "odd"):
        registry.storage.put(f"models/machines/versions/{name}/model.safetensors", b"half")
    registry.storage.delete(f"models/machines/versions/{versions[0]}/manifest.json")
    log = log_of("a", "a-odd")
    found = plan(
        "machines",
        names(registry),
        registry.unfinished("machines"),
        log,
        [],
        keep=9,
        older_than_ms=None,
        now_ms=day_ms(100),
    )
    assert found.leftovers == (versions[0], "20260101T000000-dead", "odd")
