"""A replay of snapshots comes to what the live run came to, to the bit."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.protocols import TopicPartition
from pipeline.stream import Lane
from pipeline.worker import Worker
from tests.pipeline.test_feedback_acts import hearing, say, verdict_on
from tests.replays import Score, Watched, by_partition, recorded, replay_of, run
from tests.streams import (
    BEGIN_MS,
    HISTORY,
    STEP_MS,
    VERSIONS,
    Bench,
    Payload,
    bench_options,
    drain,
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


def scores_of(worker: Worker, stream: str = "machines") -> list[Score]:
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
    return scores_of(worker)


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
