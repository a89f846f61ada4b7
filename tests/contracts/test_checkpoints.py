"""One suite for `Checkpoints`: on the twin and on a folder."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from pipeline.connectors.checkpoints import StoredCheckpoints, decode, encode
from pipeline.connectors.memory import MemoryCheckpoints
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import CheckpointError, ConfigError
from pipeline.protocols import Checkpoint, Checkpoints, TopicPartition

PLACE = TopicPartition("metrics", 3)


@pytest.fixture(params=["twin", "folder"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "twin":
        return MemoryCheckpoints()
    return StoredCheckpoints(ObjectStorage(tmp_path.as_uri()))


def at(offset: int, topic_id: str = "t1") -> Checkpoint:
    arrays: dict[str, npt.NDArray[Any]] = {
        "rows": np.full((2, 3), offset, np.float32),
        "none": np.zeros((0, 4), np.int64),
    }
    return Checkpoint("machines", PLACE, topic_id, offset, "v1", "series window=8", arrays)


def test_the_newest_at_or_below_an_offset_comes_back_whole(checkpoints: Checkpoints) -> None:
    for offset in (10, 20, 30):
        checkpoints.write(at(offset))
    assert checkpoints.newest("machines", PLACE, 5) is None
    for asked, expected in ((10, 10), (29, 20), (10**12, 30)):
        found = checkpoints.newest("machines", PLACE, asked)
        assert found is not None
        assert (found.next_offset, found.topic_id, found.shape) == (expected, "t1", "series window=8")
        np.testing.assert_array_equal(found.arrays["rows"], at(expected).arrays["rows"])
        assert found.arrays["none"].shape == (0, 4)


def test_streams_and_partitions_are_kept_apart(checkpoints: Checkpoints) -> None:
    checkpoints.write(at(10))
    assert checkpoints.newest("others", PLACE, 99) is None
    assert checkpoints.newest("machines", TopicPartition("metrics", 33), 99) is None


def test_a_topic_made_anew_begins_below_and_still_wins(checkpoints: Checkpoints) -> None:
    for offset in (1000, 2000, 3000):
        checkpoints.write(at(offset))
    checkpoints.write(at(5, "t2"))
    found = checkpoints.newest("machines", PLACE, 2500)
    assert found is not None
    assert (found.topic_id, found.next_offset) == ("t2", 5)


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    for offset in range(10):
        checkpoints.write(at(offset))
    assert len(storage.list("checkpoints")) == 3
    assert checkpoints.newest("machines", PLACE, 6) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
)
def test_a_damaged_one_is_refused_loudly_and_the_one_before_is_taken(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    checkpoints.write(at(10))
    checkpoints.write(at(20))
    newest = storage.list("checkpoints")[-1]
    storage.put(newest, damage(storage.get(newest) or b""))
    found = checkpoints.newest("machines", PLACE, 99)
    assert found is not None
    assert found.next_offset == 10
    assert newest in caplog.text


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
    ],
)
def test_an_array_comes_back_however_it_lies_in_memory(
    checkpoints: Checkpoints, array: npt.NDArray[np.generic]
) -> None:
    checkpoints.write(Checkpoint("machines", PLACE, "t1", 1, "v1", "any", {"array": array}))
    found = checkpoints.newest("machines", PLACE, 1)
    assert found is not None
    np.testing.assert_array_equal(found.arrays["array"], array)
    assert found.arrays["array"].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "body", [b"", b"no header", safetensors.numpy.save({"a": np.ones(1)}, {"other": "format"})]
)
def test_another_format_is_refused(body: bytes) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of a known format"):
        decode(hashlib.sha256(body).digest() + body)


def test_another_version_of_the_format_is_refused() -> None:
    body = encode(at(10))[32:].replace(b'version\\": 1', b'version\\": 9')
    with pytest.raises(CheckpointError, match=r"format offkey\.checkpoint 9 is not 1"):
        decode(hashlib.sha256(body).digest() + body)


def test_a_foreign_object_is_reported_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    storage.put("checkpoints/machines/metrics/3/notes.txt", b"mine")
    for offset in range(5):
        checkpoints.write(at(offset))
    found = checkpoints.newest("machines", PLACE, 99)
    assert found is not None
    assert found.next_offset == 4
    assert storage.get("checkpoints/machines/metrics/3/notes.txt") == b"mine"
    assert "notes.txt is no checkpoint" in caplog.text


def test_every_byte_counts() -> None:
    content = encode(at(10))
    for place in range(len(content)):
        with pytest.raises(CheckpointError):
            decode(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_format_can_still_be_read(version: str) -> None:
    kept = Path(__file__).parent.parent / "fixtures" / version / "checkpoint"
    found = decode(kept.read_bytes())
    assert (found.stream, found.partition, found.next_offset) == ("machines", ("metrics", 0), 400)
    assert found.arrays["rows"].shape == (4, 8, 2)


def test_the_first_number_of_partitions_is_kept(checkpoints: Checkpoints) -> None:
    assert checkpoints.partitions_at_first("machines", "metrics", "t1", lambda: 3) == 3
    assert checkpoints.partitions_at_first("machines", "metrics", "t1", lambda: 5) == 3
    assert checkpoints.partitions_at_first("machines", "metrics", "t2", lambda: 5) == 5
    assert checkpoints.partitions_at_first("others", "metrics", "t1", lambda: 6) == 6
    checkpoints.write(at(10))
    assert checkpoints.newest("machines", PLACE, 99) is not None


def test_a_damaged_number_of_partitions_is_named(tmp_path: Path) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    storage.put("checkpoints/machines/metrics/first-t1.json", b"{")
    with pytest.raises(ConfigError, match=r"first-t1\.json is damaged .*; remove it"):
        StoredCheckpoints(storage).partitions_at_first("machines", "metrics", "t1", lambda: 3)
