"""Two streams whose state all changes, and what it is at each offset, for tests of checkpoints."""

from functools import cache

from pipeline.alert_settings import AlertSettings
from pipeline.connectors.memory import MemoryStorage
from pipeline.errors import TransientError
from pipeline.lanes import build_lane
from pipeline.part_memory import Arrays
from pipeline.protocols import Checkpoint, PartitionRecords, TopicPartition
from pipeline.stream import Lane, StreamPipeline
from tests.records import Record
from tests.streams import (
    BEGIN_MS,
    CPU,
    FEATURES,
    SERIES,
    STEP_MS,
    Payload,
    feature_payloads,
    features_detector,
    payloads_of,
    series_detector,
    series_rows,
)

NAMES = ["a", "b", "c", *(f"new-{number}" for number in range(9))]
EVENTFUL = SERIES.model_copy(
    update={
        "alerts": AlertSettings.model_validate(
            {"budget": "1 per day", "stream_budget": "2 per day", "silence": 3, "storm": 3, "storm_within": "5 min"}
        ),
        "max_series": 12,
        "series_ttl": 15 * STEP_MS / 1000,
    }
)
"""Whatever may change the state of a series is asked for."""
PLACES = {"machines": TopicPartition("metrics", 0), "payments": TopicPartition("payments", 0)}


@cache
def records_of(stream: str) -> list[Record]:
    payloads: list[Payload] = feature_payloads(310)
    if stream == "machines":
        strange = {"a": [12, 13], "b": [13], "new-1": [13], "new-2": [14], "new-3": [20]}
        payloads = payloads_of(NAMES, series_rows(NAMES, 25, 5, strange))
        # Some end, one comes back, one stands still while its records are late, and names come once.
        payloads = [
            early if key == b"new-4" and at > 150 else (key, value)
            for early, (at, (key, value)) in zip(payloads[43:44] * len(payloads), enumerate(payloads), strict=True)
            if not (key == b"new-8" and at > 130) and not (key in (b"new-7", b"c") and 150 < at < 250)
        ]
        # Some are seen for the first time in the middle.
        late = payloads_of(["late", "once", "later"], series_rows(["late", "once", "later"], 12, 6, {}))
        payloads += [payload for at, payload in enumerate(late) if payload[0] != b"once" or at < 3]
        payloads += payloads_of(NAMES[:3], series_rows(NAMES[:3], 45, 7, {"b": [30]}))[75:]
    return [Record(offset, BEGIN_MS + 10**9, key, value) for offset, (key, value) in enumerate(payloads)]


def lane_of(stream: str) -> Lane:
    if stream == "machines":
        lane = build_lane(stream, EVENTFUL, series_detector(), "v1", CPU)
        lane.pipeline.divide(PLACES[stream], 1)
        return lane
    return build_lane(stream, FEATURES, features_detector(), "v1", CPU)


def scored(pipeline: StreamPipeline, stream: str, low: int, high: int) -> None:
    if low < high:
        pipeline.process([PartitionRecords(PLACES[stream], records_of(stream)[low:high])])


@cache
def undisturbed(stream: str, offset: int) -> Arrays:
    """The state before an offset, of a pipeline that nothing happened to."""
    pipeline = lane_of(stream).pipeline
    scored(pipeline, stream, 0, offset)
    return pipeline.snapshot(PLACES[stream])


def state_of(checkpoint: Checkpoint) -> Arrays:
    """The state that a checkpoint restores."""
    pipeline = lane_of(checkpoint.stream).pipeline
    pipeline.restore(checkpoint.partition, checkpoint.parts())
    return pipeline.snapshot(checkpoint.partition)


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


class Failing(MemoryStorage):
    """Storage that does not take the next part, or does and does not say so."""

    fails: str = ""

    def create(self, name: str, content: bytes | memoryview) -> bool:
        if self.fails == "refused":
            raise TransientError("storage is full")
        created = super().create(name, content)
        if self.fails == "unanswered":
            raise TransientError("no answer")
        return created
