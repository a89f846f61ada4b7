"""One suite for `Adoptions`: on the twin, on a folder and on a bucket."""

import threading
from pathlib import Path

import pytest

from pipeline.adoptions import Adoption, AdoptionLog, Adoptions
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.memory import MemoryAdoptions, MemoryStorage
from pipeline.connectors.storage import ObjectStorage
from pipeline.feedback import Words
from pipeline.protocols import TopicPartition
from tests.said import said

PLACE, ID = TopicPartition("metrics", 3), "id-1"


@pytest.fixture(params=["twin", "folder", "bucket"])
def adoptions(request: pytest.FixtureRequest, tmp_path: Path) -> Adoptions:
    if request.param == "twin":
        return MemoryAdoptions()
    url = tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket")
    return StoredAdoptions(ObjectStorage(url))


def entry(number: int, first_offset: int, version: str = "v1", run: str = "a") -> Adoption:
    return Adoption(number, first_offset, version, run)


ENTRIES = [entry(1, 0), entry(2, 50, "v2"), entry(3, 50, "v2", "b"), entry(4, 90, "v3", "b")]


def write_all(adoptions: Adoptions) -> None:
    for each in ENTRIES:
        assert adoptions.write("machines", PLACE, ID, each)


@pytest.mark.parametrize(("offset", "first"), [(0, 0), (49, 0), (50, 2), (89, 2), (90, 3), (1000, 3)])
def test_the_log_is_read_from_the_entry_in_force_on(adoptions: Adoptions, offset: int, first: int) -> None:
    write_all(adoptions)
    log = adoptions.since("machines", PLACE, ID, offset)
    assert list(log.entries) == ENTRIES[first:]
    assert log.last_number == 4


def test_an_empty_log_and_those_of_others_say_nothing(adoptions: Adoptions) -> None:
    write_all(adoptions)
    for stream, place, topic_id in (
        ("others", PLACE, ID),
        ("machines", TopicPartition("metrics", 4), ID),
        ("machines", TopicPartition("logs", 3), ID),
        ("machines", PLACE, "id-2"),
        ("machines", PLACE, ""),
    ):
        log = adoptions.since(stream, place, topic_id, 100)
        assert (list(log.entries), log.last_number) == ([], 0)


def test_a_number_is_given_once_and_writing_twice_is_fine(adoptions: Adoptions) -> None:
    assert adoptions.write("machines", PLACE, ID, entry(1, 7, "v1", "a"))
    assert adoptions.write("machines", PLACE, ID, entry(1, 7, "v1", "a"))
    assert not adoptions.write("machines", PLACE, ID, entry(1, 7, "v1", "b"))
    assert not adoptions.write("machines", PLACE, ID, entry(1, 8, "v1", "a"))
    assert list(adoptions.since("machines", PLACE, ID, 7).entries) == [entry(1, 7, "v1", "a")]


def test_of_many_at_once_one_gets_the_number(adoptions: Adoptions) -> None:
    won: list[str] = []

    def write(run: str) -> None:
        if adoptions.write("machines", PLACE, ID, entry(1, 0, "v1", run)):
            won.append(run)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (run,) = won
    assert adoptions.since("machines", PLACE, ID, 0).entries[0].run == run


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"changed", "is damaged, its sha256 differs"),
        (b"moved", "is entry 4 of format 1"),
        (None, "is missing"),
    ],
)
def test_a_damaged_entry_hides_those_before_it_and_no_later_one(
    damage: bytes | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    adoptions = MemoryAdoptions()
    write_all(adoptions)
    objects, folder = adoptions.storage.objects, f"adoptions/machines/metrics/{ID}/3"
    name = f"{folder}/00000002.json"
    if damage is None:
        del objects[name]
    elif damage == b"changed":
        objects[name] = objects[name].replace(b'"first_offset":50', b'"first_offset":51')
    elif damage == b"moved":
        objects[name] = objects[f"{folder}/00000004.json"]
    else:
        objects[name] = damage
    assert adoptions.since("machines", PLACE, ID, 0) == AdoptionLog(ENTRIES[2:], 4)
    assert f"memory/{name} {said}" in caplog.text
    assert not adoptions.write("machines", PLACE, ID, entry(4, 95, "v4"))


class ListsLate(MemoryStorage):
    """Storage that lists nothing yet of what it has."""

    def list(self, folder: str) -> list[str]:
        return []


def test_entries_that_are_not_listed_yet_are_found() -> None:
    adoptions = StoredAdoptions(ListsLate())
    write_all(adoptions)
    assert adoptions.since("machines", PLACE, ID, 60) == AdoptionLog(ENTRIES[2:], 4)


def test_words_are_kept_by_their_name(adoptions: Adoptions) -> None:
    words, other = Words({"i1": said("i1")}), Words({"i2": said("i2", "confirmed")})
    for _ in range(2):
        adoptions.keep("machines", words)
    adoptions.keep("machines", other)
    assert adoptions.words("machines", words.name) == words
    assert adoptions.words("machines", other.name) == other
    assert adoptions.words("machines", "") == Words()
    named = Adoption(1, 0, "v1", "a", words.name)
    assert adoptions.write("machines", PLACE, ID, named)
    assert list(adoptions.since("machines", PLACE, ID, 0).entries) == [named]


def test_words_that_are_lost_or_damaged_are_said(adoptions: Adoptions, caplog: pytest.LogCaptureFixture) -> None:
    assert adoptions.words("machines", "0" * 32) is None
    assert "adoptions/machines/said/" + "0" * 32 + ".json is missing" in caplog.text


@pytest.mark.parametrize("content", [b"{}", b"\xff", b""])
def test_words_of_which_a_byte_has_changed_are_none(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    adoptions, words, other = MemoryAdoptions(), Words({"i1": said("i1")}), Words({"i2": said("i2")})
    for each in (words, other):
        adoptions.keep("machines", each)
    name, another = (f"adoptions/machines/said/{each.name}.json" for each in (words, other))
    adoptions.storage.objects[name] = content
    assert adoptions.words("machines", words.name) is None
    adoptions.storage.objects[name] = adoptions.storage.objects[another]
    assert adoptions.words("machines", words.name) is None
    assert "is damaged" in caplog.text
    assert "holds something else than its name says" in caplog.text
