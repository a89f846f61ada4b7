"""One suite for `Checkpoints`: on the twin and on a folder."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import CheckpointError, ConfigError, TransientError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import MOST_LATER_PARTS, MOST_STORED, Chain, Checkpoint, Checkpoints, Part, TopicPartition

PLACE = TopicPartition("metrics", 3)
FOLDER = "checkpoints/machines/metrics/3"


@pytest.fixture(params=["twin", "folder", "bucket"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "twin":
        return MemoryCheckpoints()
    url = tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket")
    return StoredCheckpoints(ObjectStorage(url))


class Run:
    """One run of a worker: its parts of a partition, each an array of the offset that it stands at."""

    def __init__(self, checkpoints: Checkpoints, topic_id: str = "t1", place: TopicPartition = PLACE) -> None:
        self.checkpoints, self.topic_id, self.place = checkpoints, topic_id, place
        self.chain = Chain()

    def write(self, *offsets: int, closes: bool = True) -> None:
        for offset in offsets:
            self.write_arrays(offset, {"rows": np.full((2, 3), offset, np.float32)}, closes=closes)

    def write_arrays(self, offset: int, arrays: Arrays, *, closes: bool = True) -> None:
        checkpoint = Checkpoint("machines", self.place, self.topic_id, offset, "v1", "series window=8")
        self.checkpoints.write(Part(checkpoint, self.chain, PartMemory.of(arrays), closes))

    def renew(self) -> None:
        """Begin a new chain, as when the old one has grown long."""
        self.chain = Chain(self.chain.run)


def found(checkpoints: Checkpoints, at_or_below: int = 10**12) -> list[int] | None:
    """Return where the parts of the newest checkpoint stand; damage that is met on the way is passed."""
    while (newest := checkpoints.newest("machines", PLACE, at_or_below)) is not None:
        try:
            offsets = [int(arrays["rows"][0, 0]) for arrays in newest.parts()]
        except CheckpointError:
            continue
        assert offsets[-1] == newest.next_offset
        return offsets
    return None


def test_a_state_is_its_parts_up_to_the_newest_at_or_below(checkpoints: Checkpoints) -> None:
    run = Run(checkpoints)
    assert found(checkpoints) is None
    run.write(10)
    run.write(15, closes=False)
    run.write(20, 30)
    assert found(checkpoints, 5) is None
    for asked, expected in ((10, [10]), (19, [10]), (29, [10, 15, 20]), (10**12, [10, 15, 20, 30])):
        assert found(checkpoints, asked) == expected
    newest = checkpoints.newest("machines", PLACE, 30)
    assert newest == Checkpoint("machines", PLACE, "t1", 30, "v1", "series window=8")


def test_parts_that_complete_nothing_are_no_state(checkpoints: Checkpoints) -> None:
    first, second = Run(checkpoints), Run(checkpoints)
    first.write(10)
    second.write(20, 21, closes=False)
    assert found(checkpoints) == [10]
    second.write(22)
    assert found(checkpoints) == [20, 21, 22]


def test_streams_and_partitions_are_kept_apart(checkpoints: Checkpoints) -> None:
    Run(checkpoints).write(10)
    assert checkpoints.newest("others", PLACE, 99) is None
    assert checkpoints.newest("machines", TopicPartition("metrics", 33), 99) is None


def test_a_topic_made_anew_begins_below_and_still_wins(checkpoints: Checkpoints) -> None:
    Run(checkpoints).write(1000, 2000, 3000)
    Run(checkpoints, "t2").write(5)
    newest = checkpoints.newest("machines", PLACE, 2500)
    assert newest is not None
    assert (newest.topic_id, newest.next_offset) == ("t2", 5)


def test_two_runs_at_once_write_two_chains(checkpoints: Checkpoints) -> None:
    """A worker that was paused for long wakes up and goes on for a moment. Both have states of the same records."""
    zombie, owner = Run(checkpoints), Run(checkpoints)
    zombie.write(10)
    owner.write(12)
    zombie.write(14)
    assert found(checkpoints) == [10, 14]
    owner.write(16)
    assert found(checkpoints) == [12, 16]
    assert found(checkpoints, 11) == [10]
    zombie.renew()
    zombie.write(15)
    assert found(checkpoints) == [12, 16]
    owner.write(18)
    assert found(checkpoints) == [12, 16, 18]
    assert found(checkpoints, 15) == [15]
    owner.renew()
    owner.write(20)
    assert found(checkpoints) == [20]


def test_a_run_that_was_late_leaves_the_chain_that_the_owner_has_begun(checkpoints: Checkpoints) -> None:
    first, owner, zombie = Run(checkpoints), Run(checkpoints), Run(checkpoints)
    first.write(90, 100)
    owner.write(110, closes=False)
    zombie.write(120)
    assert found(checkpoints, 119) == [90, 100]
    owner.write(115)
    assert found(checkpoints, 119) == [110, 115]


def test_an_owner_that_was_overtaken_soon_begins_a_chain_that_is_read(checkpoints: Checkpoints) -> None:
    """Else another late worker's chain would have its own removed, and what it adds would be for nothing."""
    owner, zombie = Run(checkpoints), Run(checkpoints)
    owner.write_arrays(10, {"rows": np.zeros((10**5, 1), np.float32)})
    zombie.write(20)
    for offset in range(30, 130, 10):
        owner.write(offset)
    assert owner.chain.is_long
    assert (found(checkpoints) or [])[-1:] == [120]
    owner.renew()
    owner.write(*range(130, 330, 10))
    assert not owner.chain.overtaken
    assert found(checkpoints) == [*range(130, 330, 10)]


def test_what_a_run_has_begun_and_not_ended_goes_with_the_second_chain_after_it() -> None:
    checkpoints = MemoryCheckpoints()
    for offset, closes in ((10, True), (20, False), (30, True), (40, True)):
        Run(checkpoints).write(offset, closes=closes)
    assert len(checkpoints.storage.list(FOLDER)) == 2
    assert found(checkpoints, 39) == [30]


def test_runs_that_begin_at_once_take_the_same_sequence(checkpoints: Checkpoints) -> None:
    one, other = Run(checkpoints), Run(checkpoints)
    one.chain.sequence = other.chain.sequence = 7
    one.write(10, 11)
    other.write(20, 21)
    assert found(checkpoints) in ([10, 11], [20, 21])
    assert found(checkpoints, 11) == [10, 11]


def test_a_chain_grows_until_it_is_as_long_again_as_its_base() -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    assert not run.chain.is_long
    run.write(10, 20, closes=False)
    run.write(30)
    base = sum(map(len, checkpoints.storage.objects.values()))
    assert run.chain.base_bytes == base
    run.write(40, 50, 60)
    assert not run.chain.is_long
    run.write(70, closes=False)
    assert not run.chain.is_long, "in the middle of a cut"
    run.write(80)
    assert run.chain.is_long
    assert run.chain.base_bytes + run.chain.later_bytes == sum(map(len, checkpoints.storage.objects.values()))


def test_a_chain_of_many_small_parts_is_long_too() -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    run.write_arrays(0, {"rows": np.zeros((10**6, 1), np.float32)})
    for offset in range(1, MOST_LATER_PARTS + 1):
        assert not run.chain.is_long
        run.write(offset)
    assert run.chain.is_long


def test_the_chain_before_is_kept_and_earlier_ones_are_removed() -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    for offset in range(0, 100, 10):
        run.renew()
        run.write(offset, closes=False)
        run.write(offset + 1, offset + 2)
    names = checkpoints.storage.list(FOLDER)
    assert {name.split("/")[4].partition("-")[0] for name in names} == {"000000000009", "000000000010"}
    assert found(checkpoints) == [90, 91, 92]
    assert found(checkpoints, 85) == [80, 81, 82]
    assert found(checkpoints, 79) is None


def test_chains_that_are_removed_leave_nothing_on_a_disk(tmp_path: Path) -> None:
    run = Run(StoredCheckpoints(ObjectStorage(tmp_path.as_uri())))
    for offset in range(5):
        run.renew()
        run.write(offset)
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir() and not any(path.iterdir())] == []
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_old_parts_are_removed_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may take so long for each that the part would be taken for lost."""
    monkeypatch.setattr("pipeline.connectors.checkpoints._PRUNED_AT_ONCE", 2)
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    run.write(*range(5))
    left = []
    for offset in range(10, 17):
        if offset < 12:
            run.renew()
        run.write(offset)
        left.append([name.rpartition("-")[2] for name in checkpoints.storage.list(FOLDER)])
        assert found(checkpoints, 10) == [10]
    of_first = [[int(offset) for offset in offsets if int(offset) < 10] for offsets in left]
    assert of_first == [[0, 1, 2, 3, 4], [0, 1, 2], [0], [], [], [], []]
    assert run.chain.pruned


class Watched(MemoryStorage):
    """Storage that knows how many objects it held at most."""

    most = 0

    def create(self, name: str, content: bytes | memoryview) -> bool:
        created = super().create(name, content)
        self.most = max(self.most, len(self.objects))
        return created


def test_storage_holds_no_more_than_is_said() -> None:
    """Each part is as large as the first: all series change between two checkpoints."""
    storage = Watched()
    run = Run(StoredCheckpoints(storage))
    for offset in range(100, 130):
        if run.chain.is_long:
            run.renew()
        run.write(offset)
    assert storage.most == MOST_STORED


class Fragile(MemoryStorage):
    """Storage that ends the process, or fails, at the n-th removal."""

    def __init__(self, error: BaseException, removals: int) -> None:
        super().__init__()
        self._error, self._left = error, removals

    def delete(self, name: str) -> None:
        if not self._left:
            raise self._error
        self._left -= 1
        super().delete(name)


@pytest.mark.parametrize("removals", range(8))
def test_a_crash_in_the_middle_of_pruning_leaves_what_can_be_read(
    removals: int, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Fragile(KeyboardInterrupt(), removals)
    run = Run(StoredCheckpoints(storage))
    try:
        for offset in range(10, 90, 20):
            run.renew()
            run.write(offset, closes=False)
            run.write(offset + 1, offset + 2)
    except KeyboardInterrupt:
        pass
    after = StoredCheckpoints(storage)
    newest = found(after)
    assert newest is not None
    assert found(after, newest[0] - 1) is not None, "the one before is there too"
    for place in range(10, 90):
        found(after, place)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("error", [TransientError("storage is away"), ConfigError("no right to delete")])
def test_storage_that_removes_nothing_is_said_and_the_part_counts(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = StoredCheckpoints(Fragile(error, 0))
    for offset in (10, 20, 30):
        Run(checkpoints).write(offset)
    assert found(checkpoints) == [30]
    assert f"old checkpoints in {FOLDER} are left: {error}" in caplog.text


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "cut in its head": lambda content: content[:40],
    "empty": lambda content: b"",
    "a bit of the head": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "a bit of the hash": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "a bit of an array": lambda content: content[:70] + bytes([content[70] ^ 1]) + content[71:],
    "a bit at the end": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "something else": lambda content: b"x" * len(content),
    "a byte too many": lambda content: content + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize(("which", "left"), [(0, [5, 6]), (1, [10]), (2, [10, 20]), (3, [10, 20, 30])])
def test_a_damaged_part_takes_with_it_what_rests_on_it(
    which: int, left: list[int], damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    Run(checkpoints).write(5, 6)
    Run(checkpoints).write(10, 20, 30, 40)
    name = storage.list(FOLDER)[2 + which]
    storage.put(name, damage(storage.get(name) or b""))
    assert found(checkpoints) == left
    assert caplog.text.count(f"checkpoint {name} is refused, the one before is taken: it") == 1


@pytest.mark.parametrize(("which", "left"), [(0, [5, 6]), (1, [10]), (2, [10, 20])])
def test_a_missing_part_takes_with_it_what_rests_on_it(
    which: int, left: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    Run(checkpoints).write(5, 6)
    Run(checkpoints).write(10, 20, 30, 40)
    names = storage.list(FOLDER)[2:]
    storage.delete(names[which])
    assert found(checkpoints) == left
    said = f"checkpoint {names[which + 1]} is refused, the one before is taken: part 00000{which + 1}, on which it"
    assert said in caplog.text


def test_a_part_that_goes_while_it_is_read_is_passed(checkpoints: Checkpoints) -> None:
    """Its owner prunes; who reads has listed before."""
    storage = checkpoints._storage  # type: ignore[attr-defined]
    Run(checkpoints).write(5)
    Run(checkpoints).write(10, 20)
    newest = checkpoints.newest("machines", PLACE, 99)
    assert newest is not None
    storage.delete(storage.list(FOLDER)[1])
    with pytest.raises(CheckpointError, match="it is gone"):
        list(newest.parts())
    assert found(checkpoints) == [5]


def test_a_part_of_another_topic_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Someone has copied a folder."""
    checkpoints = MemoryCheckpoints()
    Run(checkpoints).write(10)
    Run(checkpoints, place=TopicPartition("others", 3)).write(20)
    (name,) = checkpoints.storage.list("checkpoints/machines/others")
    content = checkpoints.storage.objects[name]
    copied = name.replace("/others/", "/metrics/").replace("000000000001", "000000000002")
    checkpoints.storage.put(copied, content)
    assert found(checkpoints) == [10]
    assert f"{copied} is refused, the one before is taken: it is of stream machines, others/3" in caplog.text


def test_a_part_under_another_name_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = MemoryCheckpoints()
    Run(checkpoints).write(10, 20)
    _, later = checkpoints.storage.list(FOLDER)
    checkpoints.storage.put(later.replace("-20", "-60"), checkpoints.storage.objects.pop(later))
    assert found(checkpoints) == [10]
    assert "it was written as" in caplog.text


def test_the_parts_of_one_state_are_of_one_topic_and_shape() -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    run.write(10)
    run.topic_id = "t2"
    run.write(20)
    assert found(checkpoints) == [10]


class Refusing(MemoryStorage):
    """Storage that does not take a part; `kept`: or seems not to, for its answer is lost."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.kept, self.fails = kept, False

    def create(self, name: str, content: bytes | memoryview) -> bool:
        if self.fails and not self.kept:
            raise TransientError("storage is full")
        created = super().create(name, content)
        if self.fails:
            raise TransientError("no answer")
        return created


@pytest.mark.parametrize("kept", [False, True])
def test_a_part_that_failed_is_followed_by_one_in_its_place(kept: bool) -> None:
    storage = Refusing(kept=kept)
    checkpoints = StoredCheckpoints(storage)
    run = Run(checkpoints)
    run.write(10)
    storage.fails = True
    for offset in (20, 21):
        with pytest.raises(TransientError):
            run.write(offset)
    assert found(checkpoints) == ([10, 21] if kept else [10])
    storage.fails = False
    run.write(30)
    run.write(40)
    assert found(checkpoints) == [10, 30, 40]
    assert found(checkpoints, 25) == ([10, 21] if kept else [10])


def test_a_name_that_is_taken_is_never_written_over() -> None:
    checkpoints = MemoryCheckpoints()
    run, twin = Run(checkpoints), Run(checkpoints)
    twin.chain.run = run.chain.run
    twin.chain.sequence = run.chain.sequence = 1
    run.write(10)
    with pytest.raises(TransientError, match="is there already"):
        twin.write(10)
    twin.write(11)
    assert found(checkpoints) == [11]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        np.arange(20, dtype=np.int16)[::3],
        np.arange(12).reshape(3, 4)[:, 1:3],
        np.arange(3)[::-1],
        np.broadcast_to(np.float64(0.1), (2, 2)),
        np.array(7, np.uint64),
        np.array([True, False]),
        np.array([np.nan, -0.0, np.inf], np.float16),
        np.arange(3, dtype=">i4"),
        np.zeros((0, 4), np.int64),
    ],
)
def test_an_array_comes_back_however_it_lies_in_memory(
    checkpoints: Checkpoints, array: npt.NDArray[np.generic]
) -> None:
    Run(checkpoints).write_arrays(1, {"array": array, "behind": np.arange(3)})
    newest = checkpoints.newest("machines", PLACE, 1)
    assert newest is not None
    (arrays,) = newest.parts()
    np.testing.assert_array_equal(arrays["array"], array)
    assert arrays["array"].dtype == array.dtype.newbyteorder("=")
    assert arrays["array"].shape == array.shape
    assert arrays["behind"].tolist() == [0, 1, 2]


def test_a_foreign_object_is_reported_and_left_alone(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    storage = checkpoints._storage  # type: ignore[attr-defined]
    storage.create(f"{FOLDER}/notes.txt", b"mine")
    for offset in range(5):
        Run(checkpoints).write(offset)
    assert found(checkpoints) == [4]
    assert storage.get(f"{FOLDER}/notes.txt") == b"mine"
    assert "notes.txt is no checkpoint" in caplog.text


def test_the_first_number_of_partitions_is_kept(checkpoints: Checkpoints) -> None:
    assert checkpoints.partitions_at_first("machines", "metrics", "t1", lambda: 3) == 3
    assert checkpoints.partitions_at_first("machines", "metrics", "t1", lambda: 5) == 3
    assert checkpoints.partitions_at_first("machines", "metrics", "t2", lambda: 5) == 5
    assert checkpoints.partitions_at_first("others", "metrics", "t1", lambda: 6) == 6
    Run(checkpoints).write(10)
    assert checkpoints.newest("machines", PLACE, 99) is not None


def test_a_damaged_number_of_partitions_is_named(tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    storage.put("checkpoints/machines/metrics/first-t1.json", b"{")
    with pytest.raises(ConfigError, match=r"first-t1\.json is damaged .*; remove it"):
        StoredCheckpoints(storage).partitions_at_first("machines", "metrics", "t1", lambda: 3)
