"""One suite for `Checkpoints`: on the twin and on a folder."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import CheckpointError, ConfigError, TransientError
from pipeline.protocols import Checkpoint, Checkpoints, TopicPartition
from tests.contracts.chains import FOLDER, PLACE, Run, found


@pytest.fixture(params=["twin", "folder", "bucket"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "twin":
        return MemoryCheckpoints()
    url = tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket")
    return StoredCheckpoints(ObjectStorage(url))


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
