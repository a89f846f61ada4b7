"""What a rollback goes to, and what is refused before anything is written."""

import pytest

from models.manifest import MANIFEST, TENSORS
from pipeline.errors import PromotionLost, RegistryError
from pipeline.versions.log import PromotionLog
from pipeline.versions.origin import ORIGIN, Origin
from pipeline.versions.promoting import PROMOTE, ROLLBACK, knows_what_served_before, promote, served_before
from tests.pipeline.versions.desks import log_of, train, trained, verify


@pytest.mark.parametrize(
    ("entries", "before"),
    [
        ("", None),
        ("a", None),
        ("a b", "a"),
        ("a b c", "b"),
        ("a b b", "a"),
        ("a b a", "b"),
        ("a b <a", None),
        ("a b c <b", "a"),
        ("a b c <a", None),
        ("a b <a c", "a"),
        ("a b c <b d", "b"),
        ("a b c <b c", "b"),
        ("a b c <b <a", None),
        ("a <x", "a"),
        ("a b b-z", "a"),
        ("a b b-z <a", None),
        ("a b b-z c c-y", "b"),
    ],
)
def test_a_rollback_goes_further_back_each_time(entries: str, before: str | None) -> None:
    assert served_before(log_of(*entries.split()).entries) == before


@pytest.mark.parametrize(
    ("log", "known"),
    [
        (log_of(), True),
        (log_of("a"), True),
        (log_of("a", first=2), False),
        (log_of("a", "a-z", first=2), False),
        (log_of("a", "b", first=2), True),
    ],
)
def test_behind_a_hole_nothing_is_known(log: PromotionLog, known: bool) -> None:
    assert knows_what_served_before(log) is known


def test_each_rollback_and_promotion_is_an_entry() -> None:
    registry, (a, b, c) = trained(3)
    for expected in (b, a):
        log = registry.log("machines")
        before = served_before(log.tail)
        assert before is not None
        entry = promote(registry, "machines", log, before, ROLLBACK, 9, verify, note="bad", by="me@here")
        assert (entry.version, entry.note, entry.by, entry.promoted_ms) == (expected, "bad", "me@here", 9)
        champion = registry.champion("machines")
        assert champion == entry
    assert [entry.version for entry in registry.log("machines").entries] == [a, b, c, b, a]


@pytest.mark.parametrize("file", [TENSORS, MANIFEST, ORIGIN])
def test_a_version_that_is_damaged_in_a_byte_is_refused_before_it_is_written(file: str) -> None:
    registry, _ = trained(1)
    version = train(registry, 1, Origin("offkey train", 0, "metrics"))
    train(registry, 2)
    name = f"models/machines/versions/{version}/{file}"
    whole = registry.storage.objects[name]
    for place in range(0, len(whole), max(len(whole) // 20, 1)):
        registry.storage.put(name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RegistryError, match="is damaged"):
            promote(registry, "machines", registry.log("machines"), version, PROMOTE, 0, verify)
    assert registry.log("machines").last_number == 3
    registry.storage.put(name, whole)
    promote(registry, "machines", registry.log("machines"), version, PROMOTE, 0, verify)
    assert registry.log("machines").last_number == 4


@pytest.mark.parametrize("missing", [MANIFEST, TENSORS])
def test_a_version_that_is_not_whole_is_refused(missing: str) -> None:
    registry, (a, _) = trained(2)
    registry.storage.delete(f"models/machines/versions/{a}/{missing}")
    with pytest.raises(RegistryError, match=r"not complete|is missing"):
        promote(registry, "machines", registry.log("machines"), a, PROMOTE, 0, verify)
    assert registry.log("machines").last_number == 2


def test_a_decision_on_an_old_log_loses() -> None:
    registry, (a, b) = trained(2)
    log = registry.log("machines")
    promote(registry, "machines", log, a, PROMOTE, 0, verify)
    with pytest.raises(PromotionLost, match="promotion 3 was made by someone else meanwhile"):
        promote(registry, "machines", log, b, PROMOTE, 0, verify)
    champion = registry.champion("machines")
    assert champion is not None
    assert champion.version == a


def test_a_training_that_loses_names_the_version_that_it_stored() -> None:
    registry, (a, _) = trained(2)
    stale = registry.log("machines")
    promote(registry, "machines", stale, a, PROMOTE, 0, verify)
    with pytest.raises(
        PromotionLost, match=r"version (\S+) is trained and stored, .*: offkey models promote CONFIG machines \1$"
    ):
        train(registry, 5, log=stale)
    assert len(registry.versions("machines")) == 3
