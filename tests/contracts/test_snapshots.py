"""One suite for `Snapshots`: on a dictionary, on a folder, and on an object store over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.objects import Storage
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import SnapshotDamaged, SnapshotError, TransientError
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Gap, Kept, Limits, Position, Schema
from tests.chaos.object_store import LoopbackStore
from tests.snapshots import FEATURES, PLACE, TOPIC_ID, at_day, read, rows, told, write

DAY_MS = 86_400_000
FOLDER = "snapshots/machines"


@pytest.fixture(params=["twin", "folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    if request.param == "twin":
        yield MemoryStorage()
    elif request.param == "folder":
        yield ObjectStorage(tmp_path.as_uri())
    else:
        store = LoopbackStore()
        for name, text in store.environment.items():
            monkeypatch.setenv(name, text)
        yield ObjectStorage(store.url)
        store.close()


@pytest.fixture
def snapshots(storage: Storage) -> StoredSnapshots:
    return StoredSnapshots(storage)


def kept(snapshots: StoredSnapshots, topic_id: str = TOPIC_ID) -> Kept:
    return snapshots.kept("machines", {PLACE: topic_id})[PLACE]


def files(storage: Storage) -> list[str]:
    return [name for name in storage.list(FOLDER) if name.endswith(".parquet")]


def unexpected(gap: Gap) -> None:
    raise AssertionError(str(gap))


def everybody(partition: TopicPartition) -> bool:
    return True


def test_rows_come_back_as_they_were_to_the_bit(snapshots: StoredSnapshots) -> None:
    made = rows(0, 1000)
    made.values_NF[3, 0] = np.nan
    made.values_NF[4] = [-0.0, 5e-324]
    snapshots.write("machines", made, OffsetRange(0, 1000), at_day(0))
    (back,) = snapshots.read("machines", 0, 2**62, unexpected, FEATURES)
    assert (back.partition, back.topic_id, back.features) == (PLACE, TOPIC_ID, FEATURES)
    assert back.values_NF.dtype == np.float64
    assert told(back) == told(made)


def test_a_record_of_many_rows_and_one_of_features(snapshots: StoredSnapshots) -> None:
    made = rows(0, 6, series=False).take([0, 0, 2, 2, 2, 5])
    made.row_N[:] = [0, 1, 0, 1, 4, 0]
    snapshots.write("machines", made, OffsetRange(0, 9), at_day(0))
    (back,) = snapshots.read("machines", 0, 2**62, unexpected)
    assert back.series is None
    assert told(back) == told(made)


def test_features_may_be_called_like_our_columns(snapshots: StoredSnapshots, storage: Storage) -> None:
    features = ("offset", "late", "offset_value", "cpu.load")
    made = write(snapshots, 0, 10, features=features)
    (back,) = snapshots.read("machines", 0, 2**62, unexpected)
    assert back.features == features
    assert told(back) == told(made)
    content = storage.get(files(storage)[0])
    names = pyarrow.parquet.read_schema(pyarrow.BufferReader(content)).names
    assert names[6:10] == ["offset_value", "late_value", "offset_value_value", "cpu.load"]


def test_a_range_without_rows_is_covered(snapshots: StoredSnapshots) -> None:
    write(snapshots, 0, 10)
    snapshots.write("machines", rows(10, 10), OffsetRange(10, 25), at_day(0))
    write(snapshots, 25, 30)
    found = read(snapshots)
    assert found.offsets == [*range(10), *range(25, 30)]
    assert found.gaps == []
    assert kept(snapshots).ranges == ((0, 30),)


def test_days_are_by_kafka_timestamp_and_a_range_is_exact(snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 100, [0, 1])
    write(snapshots, 100, 200, [1, 2, 1.5])
    days = [name.split("/")[2] for name in files(storage)]
    assert days == ["day=2024-10-04", "day=2024-10-05", "day=2024-10-05", "day=2024-10-06"]
    found = read(snapshots, at_day(1), at_day(1.5))
    expected = [n for n in range(100) if n % 2 == 1] + [n for n in range(100, 200) if n % 3 == 0]
    assert found.offsets == expected
    assert found.gaps == []
    assert read(snapshots).offsets == list(range(200))


@pytest.mark.parametrize("kafka_ms", [-1, 2**62])
def test_a_timestamp_out_of_all_sense_is_kept_as_it_is(snapshots: StoredSnapshots, kafka_ms: int) -> None:
    made = rows(0, 3)
    made.kafka_ms_N[1] = kafka_ms
    snapshots.write("machines", made, OffsetRange(0, 3), at_day(0))
    (back,) = snapshots.read("machines", -(2**63), 2**63 - 1, unexpected)
    assert told(back) == told(made)
    assert read(snapshots, at_day(0), at_day(1)).offsets == [0, 2]


def test_each_offset_comes_once_whatever_overlaps(snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 50, [0, 1])
    write(StoredSnapshots(storage), 30, 80)
    write(StoredSnapshots(storage), 0, 50, [0, 1])
    write(snapshots, 10, 20)
    write(snapshots, 80, 90)
    found = read(snapshots)
    assert found.offsets == list(range(90))
    assert found.gaps == []
    assert kept(snapshots).ranges == ((0, 90),)


def test_partitions_and_a_topic_made_anew_are_told_apart(snapshots: StoredSnapshots) -> None:
    other, third = TopicPartition("metrics", 11), TopicPartition("metrics", 1)
    write(snapshots, 0, 20)
    write(snapshots, 0, 7, [1], topic_id="metrics#2")
    write(snapshots, 5, 9, place=other)
    found = read(snapshots)
    assert [row[0] for row in found.rows[other]] == [5, 6, 7, 8]
    assert found.offsets == [*range(20), *range(7)]
    assert kept(snapshots).ranges == ((0, 20),)
    assert kept(snapshots, "metrics#2").ranges == ((0, 7),)
    assert kept(snapshots, "metrics#3") == Kept((), topic_made_anew=True)
    assert snapshots.kept("machines", {third: TOPIC_ID})[third] == Kept()


def test_where_recording_began_is_kept(snapshots: StoredSnapshots) -> None:
    assert kept(snapshots) == Kept()
    snapshots.mark("machines", PLACE, TOPIC_ID, 500)
    snapshots.mark("machines", PLACE, TOPIC_ID, 500)
    assert kept(snapshots) == Kept((OffsetRange(500, 500),))
    assert kept(snapshots, "metrics#2").topic_made_anew
    write(snapshots, 500, 510)
    assert kept(snapshots).ranges == ((500, 510),)


def test_the_first_count_of_partitions_stays(snapshots: StoredSnapshots) -> None:
    assert snapshots.partitions_at_first("machines", TOPIC_ID, lambda: 4) == 4
    assert snapshots.partitions_at_first("machines", TOPIC_ID, lambda: 9) == 4
    assert snapshots.partitions_at_first("machines", "metrics#2", lambda: 9) == 9


def test_a_missing_file_is_a_gap_that_is_told(snapshots: StoredSnapshots, storage: Storage) -> None:
    for begin in range(0, 50, 10):
        write(snapshots, begin, begin + 10, [begin / 20])
    gone = next(name for name in files(storage) if "-000000000020-000000000030-" in name)
    storage.delete(gone)
    found = read(snapshots)
    assert found.gaps == [(20, 30)]
    assert found.offsets == [*range(20), *range(30, 50)]
    assert read(snapshots, at_day(2), at_day(3)).gaps == []
    assert kept(snapshots).ranges == ((0, 20), (30, 50))


def test_of_a_range_in_several_files_one_is_missing(snapshots: StoredSnapshots, storage: Storage) -> None:
    """As a crash leaves it: what is there is read, and the range does not count as covered."""
    write(snapshots, 0, 10)
    write(snapshots, 10, 20, [0, 1])
    write(snapshots, 20, 30, [1])
    storage.delete(next(name for name in files(storage) if name.endswith("2of2.parquet")))
    found = read(snapshots)
    assert found.gaps == [(10, 20)]
    assert found.offsets == [*range(10), 10, 12, 14, 16, 18, *range(20, 30)]
    assert kept(snapshots).ranges == ((0, 10), (20, 30))
    write(StoredSnapshots(storage), 10, 16, [0, 1])
    found = read(snapshots)
    assert found.gaps == [(16, 20)]
    assert found.offsets == [*range(17), 18, *range(20, 30)]


def test_a_range_is_there_once_it_is_closed(snapshots: StoredSnapshots, storage: Storage) -> None:
    """Between its files its recorder is at work, or was ended: then its records are read again."""
    write(snapshots, 0, 10)
    write(snapshots, 10, 30, [0, 1])
    storage.delete(next(name for name in files(storage) if name.endswith("2of2.parquet")))
    found = read(snapshots)
    assert (found.offsets, found.gaps) == ([*range(10)], [])
    write(StoredSnapshots(storage), 10, 16, [0, 1])
    found = read(snapshots)
    assert (found.offsets, found.gaps) == ([*range(16)], [])
    write(StoredSnapshots(storage), 16, 40, [0, 1])
    assert read(snapshots).offsets == [*range(40)]


def damage(storage: Storage, name: str, content: bytes) -> None:
    storage.delete(name)
    storage.create(name, content)


@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "text"])
def test_a_damaged_file_is_named_with_a_remedy(how: str, snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 1000)
    (name,) = files(storage)
    whole = storage.get(name)
    assert whole is not None
    flipped = bytearray(whole)
    flipped[len(flipped) // 3] ^= 1
    changed = {"empty": b"", "cut": whole[:-10], "flipped": bytes(flipped), "text": b"offset\n1\n"}
    damage(storage, name, changed[how])
    with pytest.raises(SnapshotDamaged, match=rf"{name}: it is damaged or cut off \(.*remove it: its offsets are"):
        read(snapshots)
    with pytest.raises(SnapshotDamaged):
        list(snapshots.rows_of("machines", kept(snapshots).last))
    assert snapshots.schema("machines") in (None, Schema(FEATURES, True))


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (("cpu", "mem", "net"), "it holds the features cpu, mem, and cpu, mem, net are asked for"),
        (("cpu",), "it holds the features cpu, mem, and cpu are asked for"),
        (("mem", "cpu"), "it holds the features cpu, mem, and mem, cpu are asked for"),
    ],
)
def test_other_features_are_refused(features: tuple[str, ...], text: str, snapshots: StoredSnapshots) -> None:
    write(snapshots, 0, 10)
    with pytest.raises(SnapshotError, match=text):
        read(snapshots, features=features)


def test_files_of_two_schemas_are_refused_where_both_are_asked_for(snapshots: StoredSnapshots) -> None:
    write(snapshots, 0, 10)
    write(snapshots, 10, 20, [1], features=("cpu",))
    assert read(snapshots, at_day(1), at_day(2)).offsets == list(range(10, 20))
    with pytest.raises(SnapshotError, match="read a range of time in which they are the same"):
        read(snapshots)
    assert snapshots.schema("machines") == Schema(("cpu",), True)


@pytest.mark.parametrize("series", [True, False])
def test_files_of_two_kinds_are_refused_where_both_are_asked_for(series: bool, snapshots: StoredSnapshots) -> None:
    write(snapshots, 0, 10, series=series)
    write(snapshots, 10, 20, [1], series=not series)
    assert read(snapshots, at_day(1), at_day(2)).offsets == list(range(10, 20))
    with pytest.raises(SnapshotError, match="read a range of time of one `kind`"):
        read(snapshots)
    assert snapshots.schema("machines") == Schema(FEATURES, not series)


def test_another_type_or_a_file_of_others_is_refused(snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 10)
    (name,) = files(storage)
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(storage.get(name)))
    for changed, text in (
        (
            table.set_column(6, "cpu", table["cpu"].cast("float")),
            r"cpu float, .* where snapshots have .*cpu double",
        ),
        (table.drop_columns(["late"]), "it has the columns"),
        (table.replace_schema_metadata(None), "it is no snapshot of format 1"),
        (table.replace_schema_metadata({"offkey.snapshot": "2"}), "use the offkey that wrote it"),
        (table.replace_schema_metadata({"offkey.snapshot": "1"}), "it tells wrongly what it is"),
    ):
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(changed, sink)
        damage(storage, name, sink.getvalue().to_pybytes())
        with pytest.raises(SnapshotError, match=text) as refused:
            read(snapshots)
        assert not isinstance(refused.value, SnapshotDamaged)


def test_a_file_under_another_name_is_refused(snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 10)
    (name,) = files(storage)
    content = storage.get(name)
    assert content is not None
    storage.create(name.replace("-000000000010-", "-000000000012-"), content)
    with pytest.raises(SnapshotError, match="it was written under another name"):
        read(snapshots)


def test_a_store_that_is_full_has_all_of_a_file_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = LoopbackStore()
    for name, text in store.environment.items():
        monkeypatch.setenv(name, text)
    snapshots = StoredSnapshots(ObjectStorage(store.url))
    write(snapshots, 0, 10)
    store.full = True
    with pytest.raises(TransientError, match=r"cannot write snapshots/machines/day=.* is it there, and not full"):
        write(snapshots, 10, 20)
    assert read(snapshots).offsets == list(range(10))
    store.heal()
    write(snapshots, 10, 20)
    write(snapshots, 10, 20)
    store.close()
    assert len(store.objects) == 2


def test_other_objects_in_the_folder_are_left_alone(snapshots: StoredSnapshots, storage: Storage) -> None:
    write(snapshots, 0, 10)
    storage.create(f"{FOLDER}/day=2024-10-04/notes.txt", b"")
    storage.create(f"{FOLDER}/other.parquet", b"")
    (name,) = (name for name in files(storage) if name.endswith("-1of1.parquet"))
    storage.create(name.replace("day=2024-10-04", "day=2024-10-34"), b"")
    snapshots.tidy("machines", at_day(1000), Limits(keep_ms=0), everybody)
    assert read(snapshots).offsets == list(range(10))
    assert len(storage.list(FOLDER)) == 4


def test_what_was_kept_by_then_is_read_whatever_comes_after(snapshots: StoredSnapshots, storage: Storage) -> None:
    """Later files, later topics, other partitions, and a file that was merged with later ones."""
    write(snapshots, 0, 10, (0,))
    write(snapshots, 10, 20, (0,))
    until = snapshots.ends("machines")
    write(snapshots, 20, 30, (0,))
    write(snapshots, 30, 40, (1,))
    write(snapshots, 0, 5, (0,), place=TopicPartition("metrics", 1))
    write(snapshots, 0, 5, (1,), topic_id="metrics#2")

    def found() -> list[int]:
        parts = snapshots.read("machines", 0, 2**62, unexpected, until=until)
        return [offset for part in parts for offset in part.offset_N.tolist()]

    assert found() == list(range(20))
    before = files(storage)
    snapshots.tidy("machines", at_day(9), Limits(), everybody)
    assert len(files(storage)) < len(before)
    assert found() == list(range(20))


def test_some_partitions_are_read_from_a_record_on(snapshots: StoredSnapshots) -> None:
    """Of the topic that has it: neither what comes before, nor an earlier topic, whose offsets begin anew."""
    others = [TopicPartition("metrics", number) for number in (1, 2)]
    for topic_id, day in ((TOPIC_ID, 0), ("metrics#2", 3)):
        for place in (PLACE, *others):
            write(snapshots, 0, 10, (day,), place=place, topic_id=topic_id)
            write(snapshots, 12, 20, (day,), place=place, topic_id=topic_id)
    assert snapshots.partitions("machines") == [PLACE, *others]
    gaps: list[Gap] = []

    def found(**since: Position | None) -> list[tuple[int, str, int]]:
        asked = {TopicPartition("metrics", int(name[1:])): at for name, at in since.items()}
        read = snapshots.read("machines", 0, 2**62, gaps.append, since=asked)
        return [(part.partition.partition, part.topic_id, o) for part in read for o in part.offset_N.tolist()]

    first, second = [*range(10), *range(12, 20)], [*range(10), *range(12, 20)]
    of_first = [(0, TOPIC_ID, offset) for offset in first]
    assert found(p0=None) == of_first + [(0, "metrics#2", offset) for offset in second]
    gaps.clear()
    assert found(p0=Position(TOPIC_ID, 7))[:4] == [(0, TOPIC_ID, offset) for offset in (7, 8, 9, 12)]
    assert [(gap.begin, gap.end) for gap in gaps] == [(10, 12), (10, 12)]
    assert found(p1=Position("metrics#2", 15)) == [(1, "metrics#2", offset) for offset in range(15, 20)]
    assert found(p2=Position("metrics#2", 19), p0=Position("metrics#2", 18)) == [
        *((0, "metrics#2", offset) for offset in (18, 19)),
        (2, "metrics#2", 19),
    ]
    assert found(p0=Position("gone", 0)) == []
    # What lies between where it is asked for and the first that is kept is told, too.
    gaps.clear()
    assert found(p1=Position("metrics#2", 10))[0] == (1, "metrics#2", 12)
    assert [(gap.begin, gap.end) for gap in gaps] == [(10, 12)]
