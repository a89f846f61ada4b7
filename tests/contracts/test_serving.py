"""Which version each partition is scored with, as its newest checkpoint says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.objects import Storage
from pipeline.connectors.serving import serving
from pipeline.connectors.storage import ObjectStorage
from pipeline.part_memory import PartMemory
from pipeline.protocols import Chain, Checkpoint, Part, TopicPartition
from pipeline.versions.usage import partitions_of

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(params=["twin", "folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "twin":
        return MemoryStorage()
    return ObjectStorage(tmp_path.as_uri() if request.param == "folder" else request.getfixturevalue("bucket"))


def write(
    storage: Storage, partition: int, offset: int, version: str, chain: Chain | None = None, topic_id: str = "t1"
) -> Chain:
    """Write a checkpoint as a worker does; its arrays are large beside what it says."""
    place = TopicPartition("metrics", partition)
    checkpoint = Checkpoint("machines", place, topic_id, offset, version, "shape")
    chain = chain or Chain()
    memory = PartMemory.of({"rows": np.zeros(50_000)})
    StoredCheckpoints(storage).write(Part(checkpoint, chain, memory, closes=True, whole=not chain.tried))
    return chain


def told(storage: Storage) -> list[tuple[int, str | None, int]]:
    return [
        (each.partition.partition, each.model_version, each.next_offset) for each in serving(storage, "machines")
    ]


def test_each_partition_tells_by_its_newest_part(storage: Storage) -> None:
    assert told(storage) == []
    chain = write(storage, 0, 10, "v1")
    write(storage, 0, 20, "v2", chain)
    write(storage, 10, 5, "v1")
    write(storage, 2, 7, "v1")
    StoredCheckpoints(storage).partitions_at_first("machines", "metrics", "t1", lambda: 3)
    assert told(storage) == [(0, "v2", 20), (2, "v1", 7), (10, "v1", 5)]
    assert list(serving(storage, "machine")) == []


def test_a_late_worker_that_lost_its_partition_is_not_the_one(storage: Storage) -> None:
    owner = write(storage, 0, 10, "v1")
    write(storage, 0, 5, "v0")
    write(storage, 0, 30, "v2", owner)
    assert told(storage) == [(0, "v2", 30)]


def test_a_topic_that_was_made_anew_begins_at_low_offsets(storage: Storage) -> None:
    write(storage, 0, 1000, "v1")
    write(storage, 0, 3, "v2", topic_id="t2")
    assert told(storage) == [(0, "v2", 3)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_early_formats_tell_too(storage: Storage, version: str) -> None:
    content = (FIXTURES / version / "checkpoint").read_bytes()
    storage.create("checkpoints/machines/metrics/0/000000000041-400", content)
    assert told(storage) == [(0, "v1", 400)]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:50], id="cut off in its head"),
        pytest.param(lambda content: content[:-200], id="cut off in its header"),
        pytest.param(lambda content: content.replace(b"model_version", b"model-version"), id="without a version"),
        pytest.param(lambda content: b"X" + content[1:], id="of another kind"),
        pytest.param(lambda content: content[:8] + b"\x09" + content[9:], id="of a later format"),
    ],
)
def test_one_that_cannot_be_read_is_told_as_such(damage: Callable[[bytes], bytes]) -> None:
    storage = MemoryStorage()
    write(storage, 0, 10, "v1")
    ((name, content),) = storage.objects.items()
    storage.put(name, damage(content))
    assert told(storage) == [(0, None, 0)]


def test_arrays_are_not_read() -> None:
    class Narrow(MemoryStorage):
        def get(self, name: str) -> bytes | None:
            raise AssertionError("it was read whole")

        def get_range(self, name: str, start: int, end: int) -> bytes | None:
            assert end - start < 2000
            return super().get_range(name, start, end)

    storage = Narrow()
    write(storage, 0, 10, "v1")
    assert told(storage) == [(0, "v1", 10)]


def test_partitions_are_told_together_as_of_the_oldest(storage: Storage) -> None:
    for number in (0, 1, 3):
        if isinstance(storage, MemoryStorage):
            storage.now_ms = 1000
        write(storage, number, 10, "v2" if number == 1 else "v1")
    found = serving(storage, "machines")
    ((topic, numbers, written_ms),) = partitions_of("v1", found)
    assert (topic, numbers) == ("metrics", [0, 3])
    assert written_ms == min(each.written_ms for each in found if each.model_version == "v1")
    assert partitions_of(None, found) == []
