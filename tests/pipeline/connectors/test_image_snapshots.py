"""Snapshots of images: the bytes of their pixels as they came, of one schema, in files that anybody reads."""

import io
from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow.parquet
import pytest

from models.arrays import FloatArray
from models.spec import ImageShape
from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.parquet import Columns
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.errors import SnapshotError
from pipeline.protocols import OffsetRange
from pipeline.snapshots import Limits, Schema, SnapshotRows, mismatch
from tests.snapshots import PLACE, TOPIC_ID, at_day, rows

SHAPE = ImageShape(16, 12, 3)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def snapshots(storage: MemoryStorage) -> StoredSnapshots:
    return StoredSnapshots(storage)


def read(snapshots: StoredSnapshots, features: tuple[str, ...] | None = None) -> list[SnapshotRows]:
    return list(snapshots.read("machines", 0, at_day(9), lambda gap: None, features))


def images(begin: int, end: int, shape: ImageShape = SHAPE) -> SnapshotRows:
    """Return an image of each offset, whose pixels follow from the offset."""
    made = rows(begin, end, features=("any",), series=False)
    x_NF = np.stack([np.random.default_rng(n).integers(0, 256, shape.values, np.uint8) for n in range(begin, end)])
    return replace(made, features=shape.names, image=shape, values_NF=cast(FloatArray, x_NF))


def write(snapshots: StoredSnapshots, begin: int, end: int, shape: ImageShape = SHAPE) -> SnapshotRows:
    made = images(begin, end, shape)
    snapshots.write("machines", made, OffsetRange(begin, end), at_day(0))
    return made


def test_pixels_come_back_as_they_were(snapshots: StoredSnapshots) -> None:
    made = write(snapshots, 0, 20)
    (back,) = read(snapshots)
    assert back.values_NF.dtype == np.uint8
    assert np.array_equal(back.values_NF, made.values_NF)
    assert (back.image, back.series, back.offset_N.tolist()) == (SHAPE, None, list(range(20)))
    assert snapshots.schema("machines") == Schema(SHAPE.names, False, SHAPE)


def test_a_file_is_read_without_us(snapshots: StoredSnapshots, storage: MemoryStorage) -> None:
    made = write(snapshots, 0, 5)
    (name,) = [each for each in storage.list("snapshots/machines") if each.endswith(".parquet")]
    table = pyarrow.parquet.read_table(io.BytesIO(storage.get(name) or b""))
    assert table.column_names == ["partition", "offset", "row", "kafka_ms", "time_ms", "pixels", "late"]
    found = np.frombuffer(table["pixels"][3].as_py(), np.uint8)
    assert np.array_equal(found, made.values_NF[3])
    assert len(table.schema.metadata[b"offkey.image"]) < 60


def test_bytes_of_some_rows_are_theirs() -> None:
    x_NF = np.arange(40, dtype=np.uint8).reshape(10, 4)
    whole = pyarrow.table({"pixels": pyarrow.array([row.tobytes() for row in x_NF], pyarrow.binary(4))})
    assert np.array_equal(Columns(whole.slice(3, 5)).bytes_of_rows("pixels", 4), x_NF[3:8])


def test_files_of_images_are_merged(snapshots: StoredSnapshots) -> None:
    for begin in range(0, 40, 10):
        write(snapshots, begin, begin + 10)
    later = images(40, 41)
    later = replace(later, kafka_ms_N=later.kafka_ms_N + at_day(1) - at_day(0))
    snapshots.write("machines", later, OffsetRange(40, 41), at_day(1))
    before = [rows.values_NF for rows in read(snapshots)]
    done = snapshots.tidy("machines", at_day(3), Limits(), lambda place: True)
    after = [rows.values_NF for rows in read(snapshots)]
    assert done.merged == 4
    assert np.array_equal(np.concatenate(before), np.concatenate(after))
    assert snapshots.kept("machines", {PLACE: TOPIC_ID})[PLACE].ranges == ((0, 41),)


def test_few_images_are_read_at_once(snapshots: StoredSnapshots) -> None:
    wide = ImageShape(256, 256, 3)
    write(snapshots, 0, 100, wide)
    sizes = [len(rows) for rows in read(snapshots)]
    assert sum(sizes) == 100
    assert max(sizes) * wide.values <= 2**23


def test_other_sizes_and_kinds_are_refused(snapshots: StoredSnapshots) -> None:
    write(snapshots, 0, 10)
    write(snapshots, 10, 20, ImageShape(12, 16, 3))
    with pytest.raises(
        SnapshotError, match="it holds images of 12 x 16 pixels of 3 channels, and images of 16 x 12"
    ):
        read(snapshots)
    made = rows(20, 30, series=False)
    snapshots.write("machines", made, OffsetRange(20, 30), at_day(1))
    with pytest.raises(SnapshotError, match="and images of 16 x 12 pixels of 3 channels are asked for"):
        read(snapshots, SHAPE.names)


def test_what_differs_from_a_configuration_is_told_with_its_key(snapshots: StoredSnapshots) -> None:
    assert mismatch(snapshots.schema("machines"), "images", SHAPE) is None
    write(snapshots, 0, 10)
    held, as_held = snapshots.schema("machines"), f"its snapshots hold images of {SHAPE}"
    assert mismatch(held, "images", SHAPE) is None
    said = "12 x 16 pixels of 3 channels are asked for; set `image` back"
    assert mismatch(held, "images", ImageShape(12, 16, 3)) == f"{as_held}, and images of {said}"
    said = "records of no series are asked for; set `kind` back"
    assert mismatch(held, "features", None) == f"{as_held}, and {said}"
