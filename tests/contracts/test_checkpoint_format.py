"""The bytes of a part: each counts, a later format is refused, and the early ones are read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pipeline.connectors.checkpoints import StoredCheckpoints, decode, decode_early
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.errors import CheckpointError
from pipeline.part_memory import MAGIC, PartMemory, read_part
from pipeline.protocols import TopicPartition
from tests.contracts.chains import FOLDER, Run, found

FIXTURES = Path(__file__).parent.parent / "fixtures"


def sealed() -> bytes:
    checkpoints = MemoryCheckpoints()
    Run(checkpoints).write(10)
    return next(iter(checkpoints.storage.objects.values()))


def test_every_byte_counts() -> None:
    content = sealed()
    for place in range(len(content)):
        with pytest.raises(CheckpointError):
            decode(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])


def test_memory_that_is_used_again_leaves_no_trace() -> None:
    memory = PartMemory()
    rows = np.arange(1000.0)
    memory.put("rows", rows)
    first = bytes(memory.seal({}))
    memory.put("large", np.ones(10**6))
    memory.begin(8000, 8000)
    memory.put("rows", rows)
    assert bytes(memory.seal({})) == first
    assert read_part(first)[1]["rows"].tolist() == rows.tolist()


def test_a_later_format_is_refused_and_named(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    run.write(10, 20)
    name = checkpoints.storage.list(FOLDER)[1]
    content = checkpoints.storage.objects[name]
    checkpoints.storage.put(name, content[:8] + (5).to_bytes(4, "little") + content[12:])
    assert found(checkpoints) == [10]
    assert "its format is 5, this version of offkey reads 4 and earlier" in caplog.text


def test_what_is_whole_but_no_part_is_refused() -> None:
    memory = PartMemory()
    with pytest.raises(CheckpointError, match="no checkpoint of a known format"):
        decode(bytes(memory.seal({"stream": "machines"})))
    assert sealed().startswith(MAGIC)


@pytest.mark.parametrize(
    "body", [b"", b"no header", safetensors.numpy.save({"a": np.ones(1)}, {"other": "format"})]
)
def test_another_early_format_is_refused(body: bytes) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of a known format"):
        decode_early(hashlib.sha256(body).digest() + body)


def early(version: str) -> bytes:
    return (FIXTURES / version / "checkpoint").read_bytes()


def test_another_version_of_the_early_format_is_refused() -> None:
    body = early("v2")[32:].replace(b'version\\": 1', b'version\\": 9')
    with pytest.raises(CheckpointError, match=r"format offkey\.checkpoint 9 is not 1"):
        decode_early(hashlib.sha256(body).digest() + body)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_early_formats_are_read_and_followed(version: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker is replaced by one of this version, and what that writes stands after what it found."""
    storage, place = MemoryStorage(), TopicPartition("metrics", 0)
    content = early(version)
    for sequence, offset in ((41, 380), (42, 390), (43, 400)):
        storage.put(f"checkpoints/machines/metrics/0/{sequence:012d}-{offset}", content)
    storage.put("checkpoints/machines/metrics/0/000000000044-410", content[:-1])
    checkpoints = StoredCheckpoints(storage)
    newest = checkpoints.newest("machines", place, 10**9)
    assert newest is not None
    assert (newest.stream, newest.partition, newest.next_offset) == ("machines", place, 400)
    (arrays,) = newest.parts()
    assert arrays["rows"].shape == (4, 8, 2)
    assert "000000000044-410 is refused" in caplog.text
    run = Run(checkpoints, place=place)
    run.write(420)
    assert [name.rpartition("/metrics/0/")[2].partition("-")[0] for name in storage.list("checkpoints")] == [
        "000000000043",
        "000000000044",
        "000000000045",
    ]
    run.renew()
    run.write(430)
    assert not any(name.endswith(("-400", "-410")) for name in storage.objects)
