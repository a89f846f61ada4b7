"""The watcher: a champion that is whole and scores here as it should gets into the slot, and no other does."""

import json
from collections.abc import Mapping
from functools import partial

import pytest

from models.files import from_files, to_files
from models.manifest import MANIFEST, TENSORS, seal
from pipeline.connectors.memory import MemoryRegistry, MemoryStorage
from pipeline.connectors.shadows import StoredShadows
from pipeline.errors import TransientError
from pipeline.lanes import lane_around, load_model
from pipeline.protocols import ModelVersion
from pipeline.shadows import Appointment, Shadows, appoint
from pipeline.stream import Lane
from pipeline.stream_model import StreamModel
from pipeline.swap import Watcher
from pipeline.versions.log import Promotion
from tests.streams import (
    CPU,
    SERIES,
    VERSIONS,
    counted,
    retrained_detector,
    series_detector,
)


def registered(*versions: str) -> MemoryRegistry:
    registry = MemoryRegistry()
    for number, version in enumerate(versions, 1):
        registry.add(ModelVersion("machines", version, to_files(VERSIONS[version]())))
        registry.promote("machines", Promotion(number, version, 1000 * number, "a test"))
    return registry


def watching(registry: MemoryRegistry, shadows: Shadows | None = None) -> tuple[Lane, Watcher]:
    load = partial(load_model, "machines", SERIES, registry, CPU)
    lane = lane_around("machines", SERIES, load("v1"), load=load)
    return lane, Watcher({"machines": lane.slot}, registry, shadows)


def test_the_watcher_puts_the_champion_into_the_slot() -> None:
    registry = registered("v1")
    lane, watcher = watching(registry)
    first = lane.slot.champion
    watcher.look()
    assert lane.slot.champion is first
    registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))
    registry.promote("machines", Promotion(2, "v2", 5000, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v2"
    assert counted("offkey_model_promoted_timestamp_seconds") == 5


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_a_champion_with_a_changed_byte_is_refused_once_and_the_model_stays(
    file: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry, before = registered("v1", "v2"), counted("offkey_model_loads_failed_total")
    lane, watcher = watching(registry)
    name = f"models/machines/versions/v2/{file}"
    content = bytearray(registry.storage.objects[name])
    content[-40] ^= 1
    registry.storage.objects[name] = bytes(content)
    for _ in range(5):
        watcher.look()
    assert lane.slot.champion.version == "v1"
    # At the first look, the third and the sixth: loading takes its part of the records' processor.
    assert counted("offkey_model_loads_failed_total") - before == 2
    assert caplog.text.count(f"stream machines: model v1 stays: model machines v2: {file} is damaged") == 1


def test_a_champion_that_reads_its_golden_batch_otherwise_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    registry = registered("v1")
    lane, watcher = watching(registry)
    detector = from_files(to_files(retrained_detector()))
    files = to_files(detector)
    for parameter in detector.views[0].parameters():
        parameter.data.mul_(1.05)
    # Whole by its hashes, with the golden batch of other weights.
    mixed = replaced_golden(to_files(detector), files)
    registry.add(ModelVersion("machines", "v3", mixed))
    registry.promote("machines", Promotion(2, "v3", 0, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v1"
    assert "model machines v3: reads its golden batch otherwise than where it was made" in caplog.text


def replaced_golden(files: Mapping[str, bytes], of: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a model's files with the golden batch of another one."""
    said = json.loads(files[MANIFEST])
    said["golden"] = json.loads(of[MANIFEST])["golden"]
    del said["sha256"]
    return {**files, MANIFEST: seal(said, files[TENSORS])}


def test_whatever_goes_wrong_in_loading_the_model_stays_and_the_next_champion_is_tried_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered("v1", "v2")
    lane, watcher = watching(registry)
    load, full = lane.slot._load, [True]
    assert load is not None

    def small(version: str) -> StreamModel:
        if full[0]:
            raise RuntimeError("CUDA out of memory")
        return load(version)

    monkeypatch.setattr(lane.slot, "_load", small)
    watcher.look()
    assert lane.slot.champion.version == "v1"
    assert "stream machines: model v1 stays: RuntimeError: CUDA out of memory" in caplog.text
    full[0] = False
    registry.promote("machines", Promotion(3, "v2", 0, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v2"


def test_weights_that_are_no_numbers_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    registry = registered("v1")
    lane, watcher = watching(registry)
    detector = from_files(to_files(retrained_detector()))
    next(iter(detector.views[0].parameters())).data.fill_(float("nan"))
    registry.add(ModelVersion("machines", "v3", to_files(detector)))
    registry.promote("machines", Promotion(2, "v3", 0, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v1"
    assert "model machines v3: its errors are no numbers" in caplog.text


def test_a_model_with_other_views_waits_for_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    registry = registered("v1")
    lane, watcher = watching(registry)
    registry.add(ModelVersion("machines", "v3", to_files(series_detector("views"))))
    registry.promote("machines", Promotion(2, "v3", 0, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v1"
    assert "cannot take over the state of v1: its views look at other windows" in caplog.text
    assert "it serves after a restart" in caplog.text


def test_the_watcher_puts_the_version_in_shadow_into_the_slot_until_it_is_promoted_or_ended() -> None:
    registry, shadows = registered("v1"), StoredShadows(MemoryStorage())
    registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))
    lane, watcher = watching(registry, shadows)
    watcher.look()
    assert lane.slot.shadow is None
    appoint_next(shadows, "v2")
    watcher.look()
    model = lane.slot.shadow
    assert model is not None
    assert (model.version, lane.slot.champion.version) == ("v2", "v1")
    watcher.look()
    assert lane.slot.shadow is model
    registry.promote("machines", Promotion(2, "v2", 5000, "a test"))
    watcher.look()
    assert (lane.slot.champion, lane.slot.shadow) == (model, None)
    registry.promote("machines", Promotion(3, "v1", 6000, "a test"))
    watcher.look()
    assert (lane.slot.champion.version, lane.slot.shadow) == ("v1", model)
    appoint_next(shadows, "")
    watcher.look()
    assert lane.slot.shadow is None


def appoint_next(shadows: Shadows, version: str) -> None:
    appoint(shadows, "machines", shadows.appointed("machines"), version, 0, note="", by="")


def test_a_model_of_other_views_may_be_in_shadow() -> None:
    registry, shadows = registered("v1"), StoredShadows(MemoryStorage())
    lane, watcher = watching(registry, shadows)
    registry.add(ModelVersion("machines", "v3", to_files(series_detector("views"))))
    appoint_next(shadows, "v3")
    watcher.look()
    assert lane.slot.shadow is not None
    # It still cannot serve without a restart.
    registry.promote("machines", Promotion(2, "v3", 0, "a test"))
    watcher.look()
    assert lane.slot.champion.version == "v1"


def test_a_version_in_shadow_that_cannot_be_had_is_said_once_and_the_champion_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, storage, before = registered("v1"), MemoryStorage(), counted("offkey_shadow_failed_total")
    shadows, failed = StoredShadows(storage), counted("offkey_model_loads_failed_total")
    lane, watcher = watching(registry, shadows)
    appoint_next(shadows, "gone")
    for _ in range(5):
        watcher.look()
    assert (lane.slot.champion.version, lane.slot.shadow) == ("v1", None)
    assert counted("offkey_shadow_failed_total") - before == 2
    assert counted("offkey_model_loads_failed_total") == failed
    assert caplog.text.count("stream machines: no model is in shadow: model machines gone: not in memory") == 1
    storage.put("shadows/machines/appointed/00000002.json", b"{")
    watcher.look()
    assert "stream machines: no model is in shadow: memory/shadows/machines/appointed/00000002.json" in caplog.text


def test_storage_that_does_not_answer_leaves_what_is_in_shadow(caplog: pytest.LogCaptureFixture) -> None:
    registry = registered("v1")
    registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))

    class Sometimes(StoredShadows):
        away = False

        def appointed(self, stream: str) -> Appointment | None:
            if self.away:
                raise TransientError("storage is away")
            return super().appointed(stream)

    shadows = Sometimes(MemoryStorage())
    appoint_next(shadows, "v2")
    lane, watcher = watching(registry, shadows)
    watcher.look()
    shadows.away = True
    watcher.look()
    assert lane.slot.shadow is not None
    assert "stream machines: what is in shadow is not known: storage is away" in caplog.text
