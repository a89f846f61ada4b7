"""How long chains of checkpoints grow, which are kept, and what a crash amid their removal leaves."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import MOST_LATER_PARTS, MOST_STORED
from tests.contracts.chains import FOLDER, Run, found


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
