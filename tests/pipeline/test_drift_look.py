"""The champion's scores on snapshots: drift of the stream is seen, an outage and a quiet stream are told apart."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from models.arrays import FloatArray
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRegistry, MemoryStorage
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.drift import Drift
from pipeline.drift_look import look
from pipeline.errors import RegistryError, SnapshotError
from pipeline.protocols import OffsetRange
from pipeline.train import publish
from tests.snapshots import rows_of
from tests.streams import (
    BEGIN_MS,
    FEATURES,
    HISTORY,
    SERIES,
    STEP_MS,
    feature_rows,
    features_detector,
    series_detector,
    series_rows,
)

NAMES, HOUR_MS = ["a", "b", "c"], 3_600_000
BLOCK_MS = 6 * HOUR_MS
POINTS = 21 * BLOCK_MS // STEP_MS
TRAINED_MS = BEGIN_MS + HISTORY * STEP_MS
NOW_MS = TRAINED_MS + 21 * BLOCK_MS


def settings(base: StreamSettings = SERIES, **changes: Any) -> StreamSettings:
    retrain = {"on_drift": True, "drift_block": "6h"}
    written = base.model_dump(mode="json", exclude_unset=True)
    return StreamSettings.model_validate({**written, "retrain": retrain, **changes})


def rows(points: int = POINTS) -> FloatArray:
    """Return what comes after the training: cycles that go on."""
    return series_rows(NAMES, HISTORY + points, 7, {})[:, HISTORY:]


def kept(x_STF: FloatArray, names: tuple[str, ...] = ("cpu", "mem")) -> StoredSnapshots:
    """Keep rows of all series, a point a minute."""
    series, points, _ = x_STF.shape
    time_ms_T = TRAINED_MS + STEP_MS * np.arange(points)
    told = (NAMES, names) if series > 1 else (None, ("a", "b", "c"))
    found = rows_of(x_STF.transpose(1, 0, 2), time_ms_T, *told)
    snapshots = StoredSnapshots(MemoryStorage())
    snapshots.write("machines", found, OffsetRange(0, len(found)), int(time_ms_T[-1]))
    return snapshots


def serving() -> MemoryRegistry:
    registry = MemoryRegistry()
    publish("machines", series_detector(), registry, datetime.fromtimestamp(TRAINED_MS / 1000, UTC))
    return registry


def looked(x_STF: FloatArray, stream: StreamSettings | None = None, **how: Any) -> Drift:
    return look("machines", stream or settings(), serving(), kept(x_STF), NOW_MS, **how)


def test_a_stream_that_goes_on_has_not_drifted_and_one_that_shifts_has() -> None:
    x_STF = rows()
    still = looked(x_STF)
    assert not still.drifted, still
    assert still.series == 3
    assert still.probability is not None
    x_STF[..., 0] += np.linspace(0, 3, POINTS)
    moved = looked(x_STF)
    assert moved.drifted, moved
    assert moved.shifted == 1.0


def test_an_outage_of_two_blocks_is_no_drift() -> None:
    x_STF = rows()
    x_STF[:, -2 * BLOCK_MS // STEP_MS :] = 20
    assert not looked(x_STF).drifted


def test_what_is_named_as_maintenance_counts_for_nothing() -> None:
    x_STF = rows()
    begin = 14 * BLOCK_MS // STEP_MS
    x_STF[:, begin:] += 3
    assert looked(x_STF).drifted
    window = {
        "series": "*",
        "from": datetime.fromtimestamp((TRAINED_MS + 14 * BLOCK_MS) / 1000, UTC).isoformat(),
        "to": datetime.fromtimestamp(NOW_MS / 1000, UTC).isoformat(),
    }
    told = looked(x_STF, settings(alerts={"budget": "1 per day", "maintenance": [window]}))
    assert (told.drifted, told.why) == (False, "no series has rows in most of the blocks")


def test_too_little_time_has_passed() -> None:
    told = look("machines", settings(), serving(), kept(rows()), NOW_MS - BLOCK_MS)
    assert told == Drift(False, "20.0 blocks have passed since training, or are kept; it takes 21 to compare")


def test_records_without_an_order_are_compared_as_one() -> None:
    registry = MemoryRegistry()
    publish("machines", features_detector(), registry, datetime.fromtimestamp(TRAINED_MS / 1000, UTC))
    stream = settings(FEATURES)
    x_TF = feature_rows(POINTS, 9)
    still = look("machines", stream, registry, kept(x_TF[None]), NOW_MS)
    assert (still.drifted, still.series) == (False, 1), still
    x_TF[14 * BLOCK_MS // STEP_MS :, 1] -= 2
    assert look("machines", stream, registry, kept(x_TF[None]), NOW_MS).drifted


def test_without_a_champion_that_could_start_there_is_drift_of_its_own() -> None:
    snapshots, registry = kept(rows()), serving()
    assert look("machines", settings(), MemoryRegistry(), snapshots, NOW_MS) == Drift(
        True, "the stream has no model yet"
    )
    (tensors,) = (name for name in registry.storage.objects if name.endswith(".safetensors"))
    content = bytearray(registry.storage.objects[tensors])
    content[-1] ^= 1
    registry.storage.objects[tensors] = bytes(content)
    told = look("machines", settings(), registry, snapshots, NOW_MS)
    assert told.drifted
    assert told.why.startswith("no worker could start with the champion: model machines ")


def test_what_cannot_be_told_is_an_error() -> None:
    registry = serving()
    registry.storage.objects["models/machines/promotions/00000001.json"] = b"{"
    with pytest.raises(RegistryError, match="damaged promotion"):
        look("machines", settings(), registry, kept(rows()), NOW_MS)
    with pytest.raises(SnapshotError, match="its snapshots hold 0 rows"):
        look("machines", settings(), serving(), StoredSnapshots(MemoryStorage()), NOW_MS)


def test_a_champion_whose_features_are_gone_is_drift_of_its_own() -> None:
    told = look("machines", settings(features=None), serving(), kept(rows(), ("cpu", "net")), NOW_MS)
    assert told == Drift(True, "the champion needs features that snapshots have no more: mem")
