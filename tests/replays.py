"""Live runs to replay: workers and a recorder on one stream, what came of it, and a replay of the snapshots.

And snapshots of two partitions, for processes that judge one each.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models.detector import Detector
from models.files import from_files, to_files
from pipeline.config import StreamSettings, load_settings
from pipeline.connectors.memory import MemorySource, MemoryStorage
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import RegistryError
from pipeline.fields import decoder_of
from pipeline.jobs.backtest import Judged, Replay
from pipeline.jobs.backtest_opening import Opening
from pipeline.lanes import build_model, lane_around
from pipeline.protocols import OffsetRange, PartitionRecords, Source, TopicPartition
from pipeline.recorded_partitions import RecordedStream
from pipeline.recorder import Recorder, RecorderOptions
from pipeline.replayed import ReplayDecoder
from pipeline.snapshots import Snapshots
from pipeline.stages.alerts import Alert
from pipeline.stream import Lane, Measure, Outcome, StreamPipeline
from pipeline.stream_model import StreamModel
from tests.commands import configured, promote
from tests.snapshots import rows_of
from tests.streams import BEGIN_MS, CPU, HISTORY, SERIES, STEP_MS, VERSIONS, Bench, series_rows

_DEADLINE_S = 60.0
Score = tuple[TopicPartition, int, int, str, int, bytes, bytes]
"""Partition, offset, row in the record, series, event time; the bits of score and threshold."""


class Watched:
    """Stages that note the score of each point that they judge, which a worker does not keep."""

    def __init__(self, pipeline: StreamPipeline) -> None:
        self._pipeline = pipeline
        self.scores: list[Score] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def process(self, arrived: Sequence[PartitionRecords], measure: Measure = nullcontext) -> Outcome:
        # One partition at a time: a score does not say of which it is.
        outcomes = []
        for records in arrived:
            outcome = self._pipeline.process([records], measure)
            self.scores += scores_of(records.partition, outcome)
            outcomes.append(outcome)
        return _added(outcomes)


def scores_of(partition: TopicPartition, outcome: Outcome) -> list[Score]:
    """Return what the points of one partition came to."""
    scored = outcome.scored
    columns = (scored.offset_M.tolist(), scored.row_M.tolist(), scored.series, scored.time_ms_M.tolist())
    bits = [[number.tobytes() for number in column] for column in (scored.score_M, scored.threshold_M)]
    return [(partition, *each) for each in zip(*columns, *bits, strict=True)]


def _added(outcomes: Sequence[Outcome]) -> Outcome:
    whole = outcomes[0]
    for one in outcomes[1:]:
        whole = replace(
            whole,
            alerts=[*whole.alerts, *one.alerts],
            rejects=[*whole.rejects, *one.rejects],
            late=whole.late + one.late,
            evicted=[*whole.evicted, *one.evicted],
            muted=[*whole.muted, *one.muted],
        )
    return whole


def record(
    source: Source, storage: Any, records: int, settings: StreamSettings = SERIES, stream: str = "machines"
) -> Snapshots:
    """Have a recorder keep so many records, which the topic holds."""
    features = tuple(settings.features or ())
    recorded = RecordedStream(stream, settings.topic, decoder_of(settings, features), features, "earliest")
    snapshots = StoredSnapshots(storage)
    recorder = Recorder([recorded], source, snapshots, RecorderOptions(file_rows=90, poll_timeout_s=0.1), lambda: 0)
    deadline_s = time.monotonic() + _DEADLINE_S
    while records > 0 and time.monotonic() < deadline_s:
        records -= recorder.step()
    assert records == 0
    recorder.close_files()
    return snapshots


def recorded(
    bench: Bench, settings: StreamSettings = SERIES, stream: str = "machines", storage: MemoryStorage | None = None
) -> Snapshots:
    """As `record`, of all that a bench's broker holds."""
    own = settings.model_copy(update={"topic": bench.metrics if stream == "machines" else bench.payments})
    # The twin of a broker knows one group: the recorder's is another one than the workers'.
    committed = bench.broker.committed.copy()
    bench.broker.members.clear()
    bench.broker.committed.clear()
    held = sum(len(log) for log in bench.broker.topics[own.topic])
    snapshots = record(MemorySource(bench.broker, [own.topic], 23), storage or MemoryStorage(), held, own, stream)
    bench.broker.members.clear()
    bench.broker.committed.update(committed)
    return snapshots


def replay_of(
    bench: Bench,
    snapshots: Snapshots,
    settings: StreamSettings = SERIES,
    champion: str = "v1",
    version: str | None = None,
    others: Mapping[str, Callable[[], Detector]] = VERSIONS,
    stream: str = "machines",
) -> Replay:
    """Return a replay with stages of its own, as another process would build them."""
    lane = replay_lane(settings, champion, others, stream)
    return Replay(lane, snapshots, bench.checkpoints, bench.adoptions, version)


def replay_lane(
    settings: StreamSettings,
    champion: str = "v1",
    others: Mapping[str, Callable[[], Detector]] = VERSIONS,
    stream: str = "machines",
) -> Lane:
    def load(version: str) -> StreamModel:
        if version not in others:
            raise RegistryError(f"model {stream} {version}: there is no such version")
        return build_model(settings, from_files(to_files(others[version]())), version, CPU)

    decoder = ReplayDecoder(stateless=settings.kind == "features")
    return lane_around(stream, settings, load(champion), load=load, decoder=decoder)


@dataclass
class Replayed:
    """What a replay came to."""

    alerts: list[Alert] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Alerts as their readers see them, with their ids."""
        return [{"id": alert.id, **msgspec.json.decode(msgspec.json.encode(alert))} for alert in self.alerts]


def run(replay: Replay, from_ms: int | None = None, to_ms: int | None = None) -> Replayed:
    """Judge a range, and keep it all."""
    found = Replayed()
    for judged in replay.run(from_ms, to_ms):
        found.judged.append(judged)
        found.alerts += judged.outcome.alerts
        found.scores += scores_of(judged.begun.partition, judged.outcome)
    return found


def by_partition(alerts: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Return alerts by the partition of their records, in their order."""
    found: dict[int, list[dict[str, Any]]] = {}
    for alert in alerts:
        found.setdefault(alert["partition"], []).append(alert)
    return found


def two_partitions(tmp_path: Path) -> Opening:
    """Return a stream with a model and snapshots of two partitions."""
    path = configured(tmp_path)
    promote(path)
    settings = load_settings(path)
    time_ms = BEGIN_MS + STEP_MS * (HISTORY + np.arange(300))
    for number, names in enumerate((["a", "b"], ["c", "d"])):
        x_STF = series_rows(names, 300, 2 + number, {names[0]: [100, 200]})
        made = rows_of(x_STF.transpose(1, 0, 2), time_ms, names, place=TopicPartition("metrics", number))
        snapshots = StoredSnapshots(ObjectStorage(settings.storage))
        snapshots.write("machines", made, OffsetRange(0, len(made)), int(time_ms[-1]))
    return Opening("machines", settings.streams["machines"], settings.storage, settings.storage, "v1", None)


def left_by(folder: Path) -> dict[str, Any]:
    """Return what a backtest has left, without the time that it took."""
    left: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    summary = json.loads(left.pop("summary.json"))
    del left["report.html"], summary["seconds"], summary["rows_per_s"]
    return {**left, "summary": summary}
