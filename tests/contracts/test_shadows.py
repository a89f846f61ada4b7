"""One suite for `Shadows`: on the twin's storage, on a folder and on a bucket."""

from pathlib import Path

import pytest

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.objects import Storage
from pipeline.connectors.shadows import StoredShadows
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import PromotionLost, RegistryError
from pipeline.shadows import Counts, Example, Tally, appoint, together


@pytest.fixture(params=["twin", "folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "twin":
        return MemoryStorage()
    return ObjectStorage(tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket"))


def tally(version: str, since_ms: int, incidents: int) -> Tally:
    example = Example("shadow", f"i{since_ms}", "a/b", since_ms, since_ms + 5, 41.5, "metrics", 0, 7)
    counts = Counts(10 * incidents, incidents, 1, incidents - 1)
    return Tally(version, since_ms, since_ms + 9, 100 * incidents, counts, counts, [example])


def test_the_newest_entry_says_which_version_is_in_shadow(storage: Storage) -> None:
    shadows = StoredShadows(storage)
    assert shadows.appointed("machines") is None
    for version in ("v2", "v3", ""):
        appoint(shadows, "machines", shadows.appointed("machines"), version, 5, note="try [it]", by="me@here")
        entry = shadows.appointed("machines")
        assert entry is not None
        assert (entry.version, entry.appointed_ms, entry.note, entry.by) == (version, 5, "try [it]", "me@here")
    assert shadows.appointed("others") is None


def test_of_two_who_say_another_version_one_wins(storage: Storage) -> None:
    first, second = StoredShadows(storage), StoredShadows(storage)
    before = first.appointed("machines")
    appoint(first, "machines", before, "v2", 5, note="", by="")
    with pytest.raises(PromotionLost, match="someone else said meanwhile which version is in shadow"):
        appoint(second, "machines", before, "v3", 5, note="", by="")
    # The client tries again after an answer that was lost.
    appoint(first, "machines", before, "v2", 5, note="", by="")
    entry = second.appointed("machines")
    assert entry is not None
    assert entry.version == "v2"


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"number":3,"version":"v2","appointed_ms":5}'])
def test_a_damaged_entry_is_told(storage: Storage, content: bytes) -> None:
    storage.put("shadows/machines/appointed/00000001.json", content)
    with pytest.raises(RegistryError, match=r"00000001\.json: damaged \(.*\), so no version is in shadow"):
        StoredShadows(storage).appointed("machines")


def test_what_runs_have_seen_is_put_together(storage: Storage) -> None:
    shadows = StoredShadows(storage)
    assert shadows.seen("machines", "v2") == ([], [])
    assert together([]) is None
    shadows.keep("machines", "one", tally("v2", 100, 1))
    shadows.keep("machines", "one", tally("v2", 100, 2))
    shadows.keep("machines", "two", tally("v2", 50, 3))
    shadows.keep("machines", "two", tally("v3", 50, 9))
    seen, faults = shadows.seen("machines", "v2")
    assert list(faults) == []
    whole = together(seen)
    assert whole is not None
    assert (whole.since_ms, whole.until_ms, whole.records) == (50, 109, 500)
    assert whole.shadow == whole.champion == Counts(50, 5, 2, 3)
    assert [each.incident for each in whole.examples] == ["i50", "i100"]


def test_a_damaged_tally_is_told_and_left_out(storage: Storage) -> None:
    shadows = StoredShadows(storage)
    shadows.keep("machines", "one", tally("v2", 100, 1))
    storage.put("shadows/machines/seen/v2/two.json", b"{")
    seen, (fault,) = shadows.seen("machines", "v2")
    assert len(seen) == 1
    assert fault.startswith(f"{storage.url}/shadows/machines/seen/v2/two.json: damaged (")


def test_what_was_seen_of_a_version_is_forgotten_with_it(storage: Storage) -> None:
    shadows = StoredShadows(storage)
    for version in ("v1", "v10"):
        shadows.keep("machines", "one", tally(version, 1, 1))
    shadows.forget("machines", "v1")
    assert shadows.seen("machines", "v1") == ([], [])
    assert len(shadows.seen("machines", "v10")[0]) == 1
