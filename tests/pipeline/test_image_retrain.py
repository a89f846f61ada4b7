"""A challenger of images is compared on images with faults, and serves where there is no other."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from models.arrays import FloatArray
from models.codes import IMAGE_REDUCER, Coder, fit_coder
from models.spec import ImageShape
from pipeline.cli_reduce import rows_of_part
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRegistry, MemoryStorage
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.errors import SnapshotError
from pipeline.history import Read
from pipeline.jobs import coding, decoding
from pipeline.jobs.blocks import Block
from pipeline.lanes import load_champion
from pipeline.protocols import OffsetRange
from pipeline.retrain import retrain_stream
from pipeline.stages.regions import Regions
from pipeline.train import read_snapshots
from tests.images import IMAGES, SHAPE, digits, image_detector
from tests.snapshots import at_day, rows
from tests.streams import BEGIN_MS, CPU

AT = datetime(2026, 1, 1, tzinfo=UTC)


def read_of(count: int) -> Read:
    columns = {"": (BEGIN_MS + 1000 * np.arange(count), digits()[0][:count])}
    return Read(columns, count, 0, 0, [], {})  # type: ignore[arg-type]


def test_the_gate_asks_for_faults_of_images() -> None:
    registry = MemoryRegistry()
    done = retrain_stream(
        *("camera", IMAGES, SHAPE.names, read_of(1_000), registry),
        now=lambda: AT,
        device=CPU,
        progress=lambda name, share: None,
    )
    assert (done.verdict.accepted, done.verdict.rule) == (True, "first"), done.verdict.reasons
    assert {"cover found", "noise found", "shade found"} <= {row.measure for row in done.verdict.rows}
    assert done.verdict.anomalies > 80
    detector, version = load_champion("camera", IMAGES, registry)
    assert (version, detector.spec.image) == (done.version, SHAPE)


def test_more_images_than_memory_holds_are_refused() -> None:
    large, count = ImageShape(512, 512, 1), 600
    snapshots = StoredSnapshots(MemoryStorage())
    made = rows(0, count, features=("any",), series=False)
    x_NF: Any = np.zeros((count, large.values), np.uint8)
    made = replace(made, features=large.names, image=large, values_NF=x_NF)
    snapshots.write("camera", made, OffsetRange(0, count), at_day(0))
    size = {"height": 512, "width": 512, "channels": 1}
    settings = StreamSettings.model_validate({**IMAGES.model_dump(exclude_unset=True), "image": size})
    with pytest.raises(SnapshotError, match=r"more than 512 images of that time, .* ask for less time"):
        read_snapshots("camera", settings, snapshots, 0, at_day(9))


def test_a_large_image_is_reduced_by_convolutions() -> None:
    shape = ImageShape(66, 64, 1)
    row_HW, column_HW = np.indices(shape[:2])
    x_NF = np.stack([127 + 120 * np.sin(row_HW / (4 + n % 7) + column_HW / 9) for n in range(70)]).reshape(70, -1)
    coder = fit_coder(
        x_NF.astype(np.uint8).astype(np.float64),
        3,
        features=shape.names,
        image=shape,
        options={"max_epochs": 2, "least_epoch_windows": 0, "hidden": 4},
    )
    assert coder.detector.name == IMAGE_REDUCER
    assert coder.encode(x_NF).shape == (70, 3)
    assert coder.decode(coder.encode(x_NF)).shape == x_NF.shape


@pytest.mark.parametrize(("image", "rows"), [(None, 262_144), (SHAPE, 262_144), (ImageShape(512, 512, 1), 512)])
def test_a_part_of_large_images_has_fewer_rows(image: ImageShape | None, rows: int) -> None:
    assert rows_of_part(262_144, image) == rows
    assert rows_of_part(1_000, image) == min(1_000, rows)


def test_images_are_decoded_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noting(Coder):
        most = 0

        def decode(self, z_ND: Any, scale: Any = None) -> FloatArray:
            self.most = max(self.most, len(z_ND))
            return super().decode(z_ND, scale)

    coder = Noting(image_detector())
    code_ND = coder.encode(digits()[0][:70].astype(np.float64)).astype(np.float64)
    code_ND[7] = np.nan
    whole_NF = np.rint(coder.decode(np.delete(code_ND, 7, axis=0)).clip(0, 255))
    coder.most = 0
    monkeypatch.setattr(decoding, "_DECODED_VALUES", 10 * SHAPE.values)
    columns, sums = decoding.Decoding(coder).columns(Block({}, code_ND))
    pixels_NF: Any = columns["pixels"]
    assert (pixels_NF.dtype, sums["usable"], coder.most) == (np.uint8, 69, 10)
    assert not pixels_NF[7].any()
    assert np.array_equal(np.delete(pixels_NF, 7, axis=0), whole_NF)


def test_errors_of_images_are_kept_of_their_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunk by chunk, and the same however large a chunk is."""
    coder, x_NF = Coder(image_detector()), digits()[0][:70].astype(np.float64)
    usable_N, off_NF = np.arange(70) != 7, coder.errors(x_NF)[1].astype(np.float64)
    expected_NR = Regions(SHAPE).means(off_NF).astype(np.float32)
    monkeypatch.setattr(coding, "_VALUES_AT_ONCE", 10 * SHAPE.values)
    told_NR = coding.code_rows(coder, x_NF, usable_N, each=True).off_NF
    assert told_NR is not None
    assert told_NR.shape == (70, 16)
    assert np.isnan(told_NR[7]).all()
    assert np.array_equal(told_NR[usable_N], expected_NR[usable_N])
