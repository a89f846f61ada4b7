"""Snapshots that are too old or too many, and small ones that are merged: beside readers, and ended anywhere."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.objects import Storage
from pipeline.connectors.snapshot_names import DAY_MS, file_name, ranges_of, segments_of, topic_of, units_of
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import TransientError
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Limits, Tidied
from tests.contracts.test_snapshots import damage, everybody, files, kept
from tests.snapshots import FIRST_DAY, PLACE, TOPIC_ID, FailingStorage, at_day, read, write

NOW = at_day(100)


@pytest.fixture(params=["twin", "folder"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "twin" else ObjectStorage(tmp_path.as_uri())


@pytest.fixture
def snapshots(storage: Storage) -> StoredSnapshots:
    return StoredSnapshots(storage)


def fill(snapshots: StoredSnapshots, days: int = 4, files_a_day: int = 3) -> int:
    """Write files of ten rows each; return where they end."""
    for number in range(days * files_a_day):
        write(snapshots, 10 * number, 10 * number + 10, [number // files_a_day])
    return 10 * days * files_a_day


def tidy(snapshots: StoredSnapshots, limits: Limits, now_ms: int = NOW) -> Tidied:
    """Tidy until there is nothing more to do; return what the last step said, with all that was removed."""
    old = many = merged = 0
    while True:
        done = snapshots.tidy("machines", now_ms, limits, everybody)
        old, many, merged = old + done.removed_for_age, many + done.removed_for_size, merged + done.merged
        if not done.more:
            return Tidied(done.files, done.stored_bytes, old, many, merged)


def removed(reason: str) -> float:
    labels = {"stream": "machines", "reason": reason}
    return REGISTRY.get_sample_value("offkey_snapshot_files_removed_total", labels) or 0.0


def test_what_is_too_old_goes_by_whole_days(snapshots: StoredSnapshots, storage: Storage) -> None:
    end, before = fill(snapshots), removed("age")
    limits = Limits(keep_ms=2.5 * DAY_MS, merged_bytes=1)
    assert tidy(snapshots, limits, at_day(3.4)).removed_for_age == 0
    done = tidy(snapshots, limits, at_day(3.6))
    assert (done.removed_for_age, done.files) == (3, 9)
    assert removed("age") - before == 3
    found = read(snapshots)
    assert found.offsets == list(range(30, end))
    assert found.gaps == []
    assert done.stored_bytes == sum(storage.sizes("snapshots/machines").values())


@pytest.mark.parametrize("now_ms", [at_day(3) - 3_600_000, at_day(3), at_day(10_000)])
def test_neither_a_clock_nor_a_timestamp_that_is_ahead_removes_what_is_not_old(
    now_ms: int, snapshots: StoredSnapshots
) -> None:
    end = fill(snapshots)
    limits = Limits(keep_ms=3 * DAY_MS + 3_600_001, merged_bytes=1)
    assert tidy(snapshots, limits, now_ms).removed_for_age == 0
    write(snapshots, end, end + 5, [9000])
    assert tidy(snapshots, limits, at_day(3)).removed_for_age == 0
    assert read(snapshots).offsets == list(range(end + 5))


def test_the_file_that_ends_last_stays(snapshots: StoredSnapshots) -> None:
    fill(snapshots)
    other = TopicPartition("metrics", 1)
    write(snapshots, 0, 10, [0], place=other)
    write(snapshots, 10, 20, [0], place=other)
    tidy(snapshots, Limits(keep_ms=0, merged_bytes=1), at_day(50))
    assert kept(snapshots).ranges == ((110, 120),)
    assert snapshots.kept("machines", {other: TOPIC_ID})[other].ranges == ((10, 20),)


def test_beyond_a_size_the_oldest_go(snapshots: StoredSnapshots, storage: Storage) -> None:
    end = fill(snapshots)
    sizes = storage.sizes("snapshots/machines")
    most = sum(sizes.values()) - 1
    done = tidy(snapshots, Limits(keep_bytes=most, merged_bytes=1))
    assert done.removed_for_size == 1
    assert done.stored_bytes <= most
    assert read(snapshots).offsets == list(range(10, end))
    assert tidy(snapshots, Limits(keep_bytes=1, merged_bytes=1)).files == 1


def test_small_files_of_past_days_become_one_a_day(snapshots: StoredSnapshots, storage: Storage) -> None:
    end, whole = fill(snapshots), read(StoredSnapshots(storage)).rows
    done = tidy(snapshots, Limits())
    assert done.merged == 9
    assert done.files == len(files(storage)) == 3 + 3
    found = read(snapshots)
    assert found.rows == whole
    assert found.gaps == []
    assert kept(snapshots).ranges == ((0, end),)
    assert tidy(snapshots, Limits()).merged == 0


def test_ranges_of_several_days_are_merged_too(snapshots: StoredSnapshots, storage: Storage) -> None:
    for number in range(6):
        write(snapshots, 10 * number, 10 * number + 10, [0, 1, 2])
    write(snapshots, 60, 70, [3])
    whole = read(snapshots).rows
    assert len(files(storage)) == 19
    assert tidy(snapshots, Limits()).merged == 18
    assert [name.rpartition("-")[2] for name in files(storage)] == [
        "1of3.parquet",
        "2of3.parquet",
        "3of3.parquet",
        "1of1.parquet",
    ]
    assert read(snapshots).rows == whole
    assert read(snapshots, at_day(1), at_day(2)).offsets == [n for n in range(60) if n % 3 == 1]


def test_files_are_merged_up_to_a_size(snapshots: StoredSnapshots, storage: Storage) -> None:
    fill(snapshots, days=1, files_a_day=12)
    write(snapshots, 120, 130, [1])
    (size, *_) = storage.sizes("snapshots/machines").values()
    tidy(snapshots, Limits(merged_bytes=int(size * 4.5)))
    ranges = sorted(unit.covered for unit in units_of("machines", files(storage)))
    assert max(end - begin for begin, end in ranges) >= 40
    assert len(ranges) < 6
    assert read(snapshots).offsets == list(range(130))


def test_partitions_of_others_are_not_merged(snapshots: StoredSnapshots) -> None:
    fill(snapshots)
    done = snapshots.tidy("machines", NOW, Limits(), lambda partition: partition != PLACE)
    assert (done.merged, done.files) == (0, 12)


def test_a_gap_is_not_merged_away(snapshots: StoredSnapshots, storage: Storage) -> None:
    fill(snapshots)
    storage.delete(next(name for name in files(storage) if "-000000000010-000000000020-" in name))
    tidy(snapshots, Limits())
    assert read(snapshots).gaps == [(10, 20)]


def test_a_damaged_file_is_left_and_those_beside_it(
    snapshots: StoredSnapshots, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    fill(snapshots)
    name = next(name for name in files(storage) if "-000000000010-000000000020-" in name)
    damage(storage, name, b"no")
    assert tidy(snapshots, Limits()).merged == 6
    assert name in files(storage)
    assert "it is damaged or cut off" in caplog.text
    storage.delete(name)
    assert read(snapshots).gaps == [(10, 20)]


@pytest.mark.parametrize("series", [True, False])
def test_files_with_and_without_series_are_not_merged(
    series: bool, snapshots: StoredSnapshots, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    write(snapshots, 0, 10, series=series)
    write(snapshots, 10, 20, series=not series)
    write(snapshots, 20, 30, [2], series=not series)
    before = files(storage)
    assert tidy(snapshots, Limits()).merged == 0
    assert files(storage) == before
    assert "files beside it are not merged" in caplog.text


def test_overlapping_files_are_merged_and_needless_ones_removed(
    snapshots: StoredSnapshots, storage: Storage
) -> None:
    write(snapshots, 0, 30)
    write(StoredSnapshots(storage), 5, 20)
    write(StoredSnapshots(storage), 0, 30)
    write(StoredSnapshots(storage), 20, 45)
    write(snapshots, 45, 60, [1])
    whole = read(snapshots).rows
    tidy(snapshots, Limits())
    assert len(files(storage)) == 2
    assert read(snapshots).rows == whole


@pytest.mark.parametrize("days", [[0], [0, 1]])
def test_an_end_between_any_two_lines_loses_nothing(days: list[float]) -> None:
    calls, done = 0, False
    while not done:
        storage = FailingStorage()
        snapshots = StoredSnapshots(storage)
        for begin in range(0, 40, 10):
            write(snapshots, begin, begin + 10, days)
        write(snapshots, 40, 50, [2])
        whole = read(snapshots).rows
        storage.left = calls
        try:
            tidy(snapshots, Limits())
            done = True
        except TransientError:
            calls += 1
        storage.left = float("inf")
        found = read(snapshots)
        assert found.rows == whole, calls
        assert found.gaps == []
        assert kept(snapshots).ranges == ((0, 50),)
        again = StoredSnapshots(storage)
        tidy(again, Limits())
        assert read(again).rows == whole
        assert len(files(storage)) <= 2 * len(days) + 2, "what a crash left is bounded"
    assert calls > 8


class Beside(MemoryStorage):
    """Does something once, just before an object is read for the so manieth time."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.act: Callable[[], object] = lambda: None

    def get(self, name: str) -> bytes | None:
        self.left -= 1
        if self.left == 0:
            self.act()
        return super().get(name)


@pytest.mark.parametrize("at", range(1, 13))
def test_a_reader_goes_on_where_files_vanish_into_larger_ones(at: int) -> None:
    storage = Beside()
    snapshots = StoredSnapshots(storage)
    fill(snapshots)
    whole = read(snapshots).rows
    tidied: list[Tidied] = []
    storage.left, storage.act = at, lambda: tidied.append(tidy(StoredSnapshots(storage), Limits()))
    found = read(snapshots)
    assert tidied[0].merged == 9
    assert found.rows == whole
    assert found.gaps == []


class Walked(MemoryStorage):
    """Lists one folder after the other, and does something once behind so many of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folders = 0
        self.act: Callable[[], object] | None = None

    def list(self, folder: str) -> list[str]:
        before = super().list(folder)
        seen = sorted({name.rpartition("/")[0] for name in before})[: self.folders]
        act, self.act = self.act, None
        if act is not None:
            act()
        behind = [name for name in super().list(folder) if name.rpartition("/")[0] not in seen]
        return sorted([name for name in before if name.rpartition("/")[0] in seen] + behind)


@pytest.mark.parametrize("folders", range(4))
@pytest.mark.parametrize("lost", [False, True])
def test_a_list_is_not_believed_that_a_merge_has_run_through(folders: int, lost: bool) -> None:
    storage = Walked()
    snapshots = StoredSnapshots(storage)
    for begin in range(0, 40, 10):
        write(snapshots, begin, begin + 10, [0, 1])
    for begin in range(40, 60, 10):
        write(snapshots, begin, begin + 10, [2])
    if lost:
        storage.delete(next(name for name in files(storage) if "-000000000010-000000000020-" in name))
    whole = read(snapshots)
    tidied: list[Tidied] = []
    storage.folders, storage.act = folders, lambda: tidied.append(tidy(StoredSnapshots(storage), Limits()))
    assert read(snapshots) == whole
    assert tidied[0].merged == (4 if lost else 8)
    assert [*whole.gaps] == ([(10, 20)] if lost else [])


def test_a_list_that_lacks_something_else_each_time_is_no_endless_search() -> None:
    class Restless(MemoryStorage):
        lists = 0

        def list(self, folder: str) -> list[str]:
            self.lists += 1
            place, topic = OffsetRange(10, 20 + self.lists), topic_of(PLACE, TOPIC_ID)
            torn = file_name("machines", topic, place, "00000000", FIRST_DAY, 1, 2)
            return sorted([*super().list(folder), torn])

    storage = Restless()
    write(StoredSnapshots(storage), 0, 10)
    with pytest.raises(TransientError, match="their files change while they are listed; try again"):
        read(StoredSnapshots(storage))
    assert storage.lists < 50


def test_a_reader_is_told_of_what_is_removed_before_it_comes_there() -> None:
    storage = Beside()
    snapshots = StoredSnapshots(storage)
    end = fill(snapshots)
    limits = Limits(keep_ms=1.5 * DAY_MS, merged_bytes=1)
    storage.left, storage.act = 2, lambda: tidy(StoredSnapshots(storage), limits, at_day(3.9))
    found = read(snapshots)
    assert found.offsets == [*range(10), *range(60, end)]
    assert found.gaps == [(10, 60)]


def test_a_gap_is_told_once_though_the_files_behind_it_vanish() -> None:
    storage = Beside()
    snapshots = StoredSnapshots(storage)
    for begin in (0, 20, 30):
        write(snapshots, begin, begin + 10)
    write(snapshots, 40, 50, [1])
    storage.left, storage.act = 2, lambda: tidy(StoredSnapshots(storage), Limits())
    found = read(snapshots)
    assert found.offsets == [*range(10), *range(20, 50)]
    assert found.gaps == [(10, 20)]


def test_a_file_that_is_listed_and_never_there_is_no_endless_search() -> None:
    class Lost(MemoryStorage):
        def get(self, name: str) -> bytes | None:
            return None

    storage = Lost()
    write(StoredSnapshots(storage), 0, 10)
    with pytest.raises(TransientError, match="is listed and cannot be read; try again"):
        read(StoredSnapshots(storage))


def test_a_read_touches_the_files_of_its_days_only() -> None:
    storage = FailingStorage()
    snapshots = StoredSnapshots(storage)
    fill(snapshots, days=5)
    storage.got.clear()
    read(snapshots, at_day(2), at_day(3))
    assert [name.split("/")[2] for name in storage.got] == 3 * ["day=2024-10-06"]


units = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(1, 2), st.booleans(), st.integers(0, 3)),
    max_size=12,
)


@given(units)
def test_each_offset_is_one_files_and_whole_ones_come_first(drawn: list[tuple[Any, ...]]) -> None:
    names: list[str] = []
    covered: list[OffsetRange] = []
    torn: list[OffsetRange] = []
    for number, (begin, length, parts, is_torn, day) in enumerate(drawn):
        offsets = OffsetRange(begin, begin + length)
        topic = topic_of(PLACE, TOPIC_ID)
        made = [
            file_name("machines", topic, offsets, f"{number:08x}", FIRST_DAY + day + part, part + 1, parts)
            for part in range(parts)
        ]
        is_torn = is_torn and parts > 1
        (torn if is_torn else covered).append(offsets)
        names += made[:1] if is_torn else made
    segments = segments_of(units_of("machines", names))
    assert all(one.end <= other.begin for one, other in pairwise(segments))
    assert all(one.begin < one.end for one in segments)
    assert ranges_of(OffsetRange(one.begin, one.end) for one in segments) == ranges_of([*covered, *torn])
    of_whole = [OffsetRange(one.begin, one.end) for one in segments if one.unit.is_whole]
    assert ranges_of(of_whole) == ranges_of(covered)


@pytest.mark.timeout(60)
def test_many_files_are_told_apart_as_quickly_as_few() -> None:
    """As of a year of large files, or of a topic that nobody could merge: the recorder's loop waits for it."""
    topic, count = topic_of(PLACE, TOPIC_ID), 20_000
    names = [
        file_name(
            "machines", topic, OffsetRange(10 * n, 10 * n + 15), f"{n:08x}", FIRST_DAY + n // 300, 1, 1 + n % 2
        )
        for n in range(count)
    ]
    segments = segments_of(units_of("machines", names))
    assert len(segments) == 2 * (count // 2)
    assert all(one.end == other.begin for one, other in pairwise(segments))
    assert [(each.begin, each.end) for each in segments[:3]] == [(0, 15), (15, 20), (20, 35)]
