"""A replay of snapshots comes to what the live run came to, to the bit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.spec import ModelSpec
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.connectors.snapshot_names import DAY_MS
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.backtest import WARMING_POINTS, Replay
from pipeline.jobs.backtest_output import SCORES
from pipeline.jobs.backtest_pictures import pictures_of
from pipeline.jobs.backtest_run import run_side
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.replayed import ReplayDecoder, records_of
from pipeline.stream import Lane
from pipeline.worker import Worker
from tests.pipeline.test_feedback_acts import hearing, say, verdict_on
from tests.replays import Score, Watched, by_partition, recorded, replay_of, run
from tests.snapshots import rows
from tests.streams import (
    BEGIN_MS,
    FEATURES,
    HISTORY,
    SERIES,
    STEP_MS,
    VERSIONS,
    Bench,
    Payload,
    bench_options,
    drain,
    feature_payloads,
    features_detector,
    fit,
    payloads_of,
    series_rows,
)

NAMES = ["a", "b", "c", "new", "d"]
POINTS = 260
SPIKES = {"a": [60, 120, 180, 230], "b": [100, 200], "new": [150], "d": [90, 210]}
SAID_AT, SWAPPED_AT = 450, 800
PLACES = [TopicPartition("metrics", 0), TopicPartition("metrics", 1)]


def payloads(seed: int = 3) -> list[Payload]:
    """Records of five series; some come late, and some are no records at all."""
    random = np.random.default_rng(seed)
    made: list[Payload] = []
    for number, (key, value) in enumerate(payloads_of(NAMES, series_rows(NAMES, POINTS, 2, SPIKES))):
        made.append((key, value))
        if random.random() < 0.04:
            row = json.loads(value or b"")
            made.append((key, json.dumps({**row, "ts": row["ts"] - 3 * STEP_MS, "cpu": 50.0}).encode()))
        if random.random() < 0.02 or number == 0:
            made.append((key, b"no"))
    return made


def empty(**options: Any) -> Bench:
    bench = Bench(options=bench_options(checkpoint_every_s=0), **options)
    bench.broker.create_topic("feedback", 1)
    return bench


def arrived_ms(number: int) -> int:
    """Return the Kafka timestamp of the stream's record of this number: they tell ranges apart."""
    return BEGIN_MS + STEP_MS * HISTORY + 10**9 + 1000 * number


def fill(bench: Bench, low: int = 0, high: int = 10**6) -> None:
    """Append some of the payloads."""
    for number, (key, value) in list(enumerate(payloads()))[low:high]:
        at = sum(key or b"") % 2
        bench.broker.append("metrics", value, key=key, partition=at, timestamp=arrived_ms(number))


def watched(lane: Lane) -> Lane:
    """Have stages note their scores."""
    return replace(lane, pipeline=Watched(lane.pipeline))


def judged_by(worker: Worker, stream: str = "machines") -> list[Score]:
    (stages,) = (lane.pipeline for lane in worker.lanes if lane.name == stream)
    assert isinstance(stages, Watched)
    return stages.scores


def worker_of(bench: Bench, version: str = "v1") -> Worker:
    return hearing(bench, bench.worker(version=version, others=VERSIONS, max_poll_records=60, around=watched))


def promote(worker: Worker, version: str) -> None:
    (slot,) = (lane.slot for lane in worker.lanes if lane.name == "machines")
    slot.champion = slot.of(version)


def live(bench: Bench) -> list[Score]:
    """Work through all, on the way a word on the first incident of a series, and a swap; return the scores."""
    worker = worker_of(bench)
    fill(bench, 0, SAID_AT)
    drain(worker)
    say(bench, verdict_on(bench, next(alert["incident"] for alert in bench.alerts() if alert["series"] == "a")))
    fill(bench, SAID_AT, SWAPPED_AT)
    drain(worker)
    promote(worker, "v2")
    fill(bench, SWAPPED_AT)
    drain(worker)
    worker.checkpoint()
    return judged_by(worker)


def test_scores_and_incidents_are_those_of_the_live_run() -> None:
    bench = empty()
    scores = live(bench)
    for place in PLACES:
        assert len({entry.version for entry in bench.adopted(place)}) == 2
        assert bench.adopted(place)[-1].words
    replay = replay_of(bench, recorded(bench), champion="v2")
    found = run(replay)
    assert sorted(found.scores) == sorted(scores)
    assert len(scores) > 1000
    assert by_partition(found.bodies) == by_partition(bench.alerts())
    assert len(bench.alerts()) > 10
    assert {begun.way for begun in replay.begun} == {"start"}
    assert sum(judged.outcome.late for judged in found.judged) > 20


def later(scores: Sequence[Score], replay: Replay) -> list[Score]:
    """Return the scores from where a replay begins to tell."""
    begins = {begun.partition: begun.offset for begun in replay.begun}
    return sorted(score for score in scores if score[1] >= begins[score[0]])


def test_a_replay_begins_at_a_kept_checkpoint() -> None:
    bench = empty()
    scores = live(bench)
    replay = replay_of(bench, recorded(bench), champion="v2")
    found = run(replay, from_ms=arrived_ms(1000))
    assert [begun.way for begun in replay.begun] == ["checkpoint", "checkpoint"]
    assert all(0 < begun.state_offset <= begun.offset for begun in replay.begun)
    assert sorted(found.scores) == later(scores, replay)
    assert 300 < len(found.scores) < len(scores)
    begins = {begun.partition.partition: begun.offset for begun in replay.begun}
    published = [alert for alert in bench.alerts() if alert["offset"] >= begins[alert["partition"]]]
    assert by_partition(found.bodies) == by_partition(published)
    assert any(alert["state"] == "resolved" for alert in published)


def test_without_a_checkpoint_the_first_stretch_is_cold_and_says_so() -> None:
    bench = empty()
    scores = live(bench)
    bench.checkpoints = MemoryCheckpoints()
    replay = replay_of(bench, recorded(bench), champion="v2")
    found = run(replay, from_ms=arrived_ms(1000))
    assert {begun.way for begun in replay.begun} == {"cold"}
    interval_ms = replay.lane.slot.champion.detector.calibration.interval_ms
    for begun, judged in {each.begun.partition: (each.begun, each) for each in reversed(found.judged)}.values():
        first_ms = int(judged.rows.time_ms_N[0])
        assert begun.warming_until_ms == first_ms + (8 + WARMING_POINTS) * interval_ms
    warming = sum(judged.outcome.points_warming for judged in found.judged)
    assert warming == 8 * len(NAMES)
    assert len(found.scores) == len(later(scores, replay)) - warming


def test_a_range_before_the_workers_began_is_cold_and_judged_by_what_they_began_with() -> None:
    bench = empty()
    fill(bench, 0, 700)
    begun = {place: len(bench.broker.topics["metrics"][place.partition]) for place in PLACES}
    bench.broker.committed.update(begun)
    worker = worker_of(bench)
    fill(bench, 700)
    drain(worker)
    snapshots = recorded(bench)
    whole = replay_of(bench, snapshots, champion="v2")
    found = run(whole)
    assert {each.partition: (each.way, each.offset) for each in whole.begun} == {
        place: ("start", offset) for place, offset in begun.items()
    }
    assert sorted(found.scores) == sorted(judged_by(worker))
    earlier = replay_of(bench, snapshots, champion="v2")
    found = run(earlier, from_ms=0)
    assert {each.way for each in earlier.begun} == {"cold"}
    assert {judged.version for judged in found.judged} == {"v1"}


def test_one_version_judges_all_in_the_place_of_those_that_the_log_names() -> None:
    bench = empty()
    live(bench)
    replay = replay_of(bench, recorded(bench), champion="v2", version="v2")
    found = run(replay)
    assert {judged.version for judged in found.judged} == {"v2"}
    assert {alert.model_version for alert in found.alerts} == {"v2"}
    assert {begun.way for begun in replay.begun} == {"start"}
    # What was said acts all the same.
    assert any(judged.outcome.excused for judged in found.judged)


def test_a_version_that_cannot_be_had_is_said_to_be_replaced() -> None:
    bench = empty()
    live(bench)
    replay = replay_of(bench, recorded(bench), champion="v2", others={"v2": VERSIONS["v2"]})
    found = run(replay)
    assert replay.replaced == ["v1"]
    assert {judged.version for judged in found.judged} == {"v2"}


def test_features_are_judged_as_they_were() -> None:
    bench = Bench(options=bench_options(checkpoint_every_s=0))
    bench.fill([], feature_payloads())
    bench.broker.append("payments", b"no", timestamp=BEGIN_MS)
    worker = bench.worker(version="v1", others=VERSIONS, around=watched)
    drain(worker)
    snapshots = recorded(bench, FEATURES, "payments")
    replay = replay_of(bench, snapshots, FEATURES, "v1", None, {"v1": features_detector}, "payments")
    found = run(replay)
    assert sorted(found.scores) == sorted(judged_by(worker, "payments"))
    assert found.bodies == bench.alerts()
    assert len(found.bodies) >= 3


def test_held_features_and_rows_that_cannot_be_held_come_out_the_same() -> None:
    holding = SERIES.model_copy(update={"missing": "hold", "hold_points": 2})
    bench, random = Bench(options=bench_options(checkpoint_every_s=0)), np.random.default_rng(4)
    made = [(key, json.loads(value)) for key, value in payloads() if value and value != b"no"]
    for number, (key, row) in enumerate(made):
        if random.random() < 0.25:
            row["mem"] = None
        at, value = sum(key or b"") % 2, json.dumps(row).encode()
        bench.broker.append("metrics", value, key=key, partition=at, timestamp=arrived_ms(number))
    worker = bench.worker(series=holding, version="v1", others=VERSIONS, around=watched)
    drain(worker)
    assert bench.broker.records("dead")
    found = run(replay_of(bench, recorded(bench, holding), holding))
    assert sorted(found.scores) == sorted(judged_by(worker))
    assert by_partition(found.bodies) == by_partition(bench.alerts())
    assert sum(judged.outcome.held for judged in found.judged) > 50


def test_silences_storms_and_series_that_leave_come_out_the_same() -> None:
    """They rest on the time of a partition, which clocks that are ahead of Kafka's timestamps do not move."""
    alerts = SERIES.alerts.model_copy(update={"silence": 4, "storm": 2, "storm_within": 600, "repeat_after": 300})
    eventful = SERIES.model_copy(update={"alerts": alerts, "max_series": 4})
    bench = Bench(partitions=1, options=bench_options(checkpoint_every_s=0))
    spikes = {"a": [60, 120, 200], "b": [60, 120, 200], "c": [60, 120], "new": [60, 130]}
    for key, value in payloads_of(NAMES, series_rows(NAMES, POINTS, 2, spikes)):
        row = json.loads(value or b"")
        point = (row["ts"] - BEGIN_MS) // STEP_MS - HISTORY
        if (key == b"c" and 80 < point < 100) or (key == b"d" and point < 140) or (key == b"b" and point > 220):
            continue
        published_ms = row["ts"]
        if key == b"a":
            row["ts"] += 10 * STEP_MS
        sent = json.dumps(row).encode()
        bench.broker.append("metrics", sent, key=key, timestamp=published_ms)
    worker = bench.worker(series=eventful, version="v1", others=VERSIONS, around=watched)
    drain(worker)
    found = run(replay_of(bench, recorded(bench, eventful), eventful))
    assert found.bodies == bench.alerts()
    assert sorted(found.scores) == sorted(judged_by(worker))
    assert {alert["state"] for alert in bench.alerts()} >= {"opened", "silent", "storm", "resolved"}
    assert any(judged.outcome.evicted for judged in found.judged)


def test_gaps_are_told() -> None:
    bench = empty()
    live(bench)
    snapshots = recorded(bench)
    assert isinstance(snapshots, StoredSnapshots)
    storage = snapshots._storage
    gone = sorted(name for name in storage.list("snapshots") if "metrics-0" in name and "_begun" not in name)[3]
    storage.delete(gone)
    replay = replay_of(bench, snapshots, champion="v2")
    run(replay)
    begin, end = map(int, gone.rpartition("metrics-0-")[2].split("-")[:2])
    assert [(gap.begin, gap.end) for gap in replay.gaps] == [(begin, end)]


def test_a_topic_that_was_made_anew_is_judged_anew(tmp_path: Path) -> None:
    """As its worker did: what it had of the earlier topic was thrown away."""
    bench, kept = Bench(partitions=1, options=bench_options(checkpoint_every_s=0)), MemoryStorage()
    scores: list[Score] = []
    for later_ms in (0, 2 * DAY_MS):
        bench.broker.create_topic("metrics", 1)
        bench.broker.committed.clear()
        bench.broker.members.clear()
        for number, (key, value) in enumerate(payloads(3 + later_ms)[:700]):
            bench.broker.append("metrics", value, key=key, timestamp=arrived_ms(number) + later_ms)
        worker, first = bench.worker(version="v1", others=VERSIONS, around=watched), len(scores)
        drain(worker)
        scores += judged_by(worker)
        snapshots = recorded(bench, storage=kept)
    replay = replay_of(bench, snapshots)
    found = run(replay)
    again = run_side(replay_of(bench, snapshots), "live", None, None, lambda rows: None, tmp_path / "out", True)
    drawn = pictures_of(replay_of(bench, snapshots), again.result, tmp_path / "out" / SCORES, None)
    assert [begun.topic_id for begun in replay.begun] == ["metrics#2", "metrics#3"]
    # Each for itself, though partition, offsets and series are called alike.
    assert len(drawn) == 2 * len({view.name for view in drawn}) > 2
    assert {(view.name, view.score_N.tobytes()) for view in drawn} == {
        (view.name, b"".join(score[5] for score in of_topic if score[3] == view.name))
        for view in drawn
        for of_topic in (scores[:first], scores[first:])
    }
    assert {begun.way for begun in replay.begun} == {"start"}
    assert sorted(found.scores) == sorted(scores)
    assert found.bodies == bench.alerts()


def test_a_model_for_features_that_snapshots_lack_is_refused_and_they_are_named() -> None:
    bench = empty()
    live(bench)
    other = SERIES.model_copy(update={"features": ["cpu", "disk"]})
    names = ["a", "b", "c"]
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, series_rows(names, HISTORY, 1, {})[i]) for i, name in enumerate(names)}
    detector = fit(ModelSpec("series", ("cpu", "disk"), 8), "linear", {"latent": 4}, columns)
    replay = replay_of(bench, recorded(bench), other, "v3", "v3", {"v3": lambda: detector})
    with pytest.raises(
        ConfigError, match=r"model v3 reads disk, and its snapshots hold cpu, mem.*--version|name a"
    ):
        run(replay)


def test_a_range_without_rows_says_what_there_is() -> None:
    bench = empty()
    live(bench)
    replay = replay_of(bench, recorded(bench))
    with pytest.raises(
        SnapshotError, match=r"no rows of that time; the oldest came in at 20\d\d-.*ask for another"
    ):
        run(replay, to_ms=1)


def test_timestamps_in_another_unit_are_as_late_as_can_be() -> None:
    storage = MemoryStorage()
    snapshots, few = StoredSnapshots(storage), rows(0, 10)
    in_us = replace(few, kafka_ms_N=few.kafka_ms_N * 1000)
    snapshots.write("machines", in_us, OffsetRange(0, 10), int(in_us.kafka_ms_N[-1]))
    with pytest.raises(SnapshotError, match="no rows of that time; the oldest came in at 2100-01-01T00:00:00Z"):
        run(replay_of(Bench(), snapshots), to_ms=1)


def test_without_snapshots_it_says_how_to_get_some() -> None:
    with pytest.raises(SnapshotError, match="stream machines has no snapshots; keep some with: offkey record"):
        replay_of(Bench(), StoredSnapshots(MemoryStorage()))


def test_of_many_series_a_few_rows_name_only_their_own() -> None:
    made = rows(0, 6)
    many = replace(made, series=[*(made.series or ()), *(f"other {n}" for n in range(50))])
    (batch, rejects), (same, _) = (ReplayDecoder(stateless=False).decode(records_of(each)) for each in (many, made))
    assert batch.series_of_rows == same.series_of_rows
    assert (len(batch.series), rejects) == (3, [])
    assert [batch.offset_N.tolist(), batch.row_N.tolist()] == [list(range(6)), list(range(6))]


def test_rows_of_few_series_are_judged_in_short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C waits for the end of one."""
    bench = empty()
    live(bench)
    snapshots = recorded(bench)

    def pieces() -> list[int]:
        return [len(judged.rows) for judged in replay_of(bench, snapshots, champion="v2").run()]

    usual = pieces()
    monkeypatch.setattr("pipeline.jobs.backtest._POINTS_AT_ONCE", 20)
    short = pieces()
    assert max(short) <= 20 * len(NAMES) < max(usual)
    assert sum(short) == sum(usual)


def test_nothing_is_written_to_storage() -> None:
    bench = empty()
    live(bench)
    snapshots = recorded(bench)
    assert isinstance(snapshots, StoredSnapshots)
    stores = [bench.checkpoints.storage, bench.adoptions.storage, snapshots._storage]
    assert all(isinstance(store, MemoryStorage) for store in stores)
    before = [dict(store.objects) for store in stores]  # type: ignore[attr-defined]
    run(replay_of(bench, snapshots, champion="v2"), from_ms=arrived_ms(1000))
    assert [store.objects for store in stores] == before  # type: ignore[attr-defined]
