"""The same records through a live worker on Apache Kafka and, from snapshots, through the command `backtest`."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from models.files import to_files
from pipeline.config import load_settings
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaFeedback, KafkaLog, KafkaPublisher, KafkaSource
from pipeline.connectors.parquet import Reader
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.delivery import AtLeastOnce
from pipeline.feedback import message
from pipeline.incident_log import feedback_on, read_incidents
from pipeline.lanes import champion_of, lane_around, load_model
from pipeline.listening import Listening
from pipeline.protocols import Message, ModelVersion, TopicPartition
from pipeline.swap import Watcher
from pipeline.versions.log import Promotion
from pipeline.worker import Worker, WorkerOptions
from tests.commands import configured, events, offkey, promote
from tests.pipeline.jobs.test_backtest import SAID_AT, SWAPPED_AT, arrived_ms, payloads
from tests.replays import Score, Watched, by_partition, record
from tests.streams import CPU, SERIES, retrained_detector

_DEADLINE_S = 60.0


class Live:
    """A worker on Apache Kafka, with all that a user's has around it, stepped by the test."""

    def __init__(self, stack: ExitStack, config: Path, unique: Callable[[str], str]) -> None:
        settings = load_settings(config)
        self.settings, stream = settings, settings.streams["machines"]
        self.topic, self.connection = stream.topic, Connection(settings.kafka.bootstrap_servers)
        storage = ObjectStorage(settings.storage)
        self.registry = StoredRegistry(storage)
        load = partial(load_model, "machines", stream, self.registry, CPU)
        lane = lane_around("machines", stream, load(champion_of("machines", self.registry).version), load=load)
        self.stages = Watched(lane.pipeline)
        lane = replace(lane, pipeline=self.stages)
        group = GroupOptions(
            settings.kafka.group_id, session_timeout_s=6, max_poll_interval_s=6, max_poll_records=60
        )
        source = stack.enter_context(closing(KafkaSource(self.connection, group, [self.topic])))
        self.publisher = stack.enter_context(closing(KafkaPublisher(self.connection)))
        options = WorkerOptions(settings.topics.alerts, settings.topics.dead_letters, checkpoint_every_s=0.2)
        delivery = AtLeastOnce(self.publisher, source)
        self.worker = Worker(
            [lane], source, delivery, StoredCheckpoints(storage), StoredAdoptions(storage), options
        )
        heard = stack.enter_context(closing(KafkaFeedback(self.connection, settings.topics.feedback)))
        self.worker.listening = Listening(heard, settings.topics.feedback, {"machines": lane.feedback})
        self.watcher = Watcher({"machines": lane.slot}, self.registry)

    def go_on(self, low: int, high: int) -> None:
        """Publish some of the payloads, and work until all are scored."""
        made = list(enumerate(payloads()))[low:high]
        for number, (key, value) in made:
            at = sum(key or b"") % 2
            sent = Message(self.topic, key, value, partition=at, timestamp_ms=arrived_ms(number))
            self.publisher.send(sent)
        self.publisher.flush(30)
        deadline_s, left = time.monotonic() + _DEADLINE_S, len(made)
        while left > 0 and time.monotonic() < deadline_s:
            left -= self.worker.step()
        assert left == 0

    def say_of_first(self, series: str) -> None:
        """Call the first incident of a series a false alarm, and work until the worker has heard it."""
        found = read_incidents(KafkaLog(self.connection, self.settings.topics.alerts), lambda course: True)
        course = next(each for each in found.courses.values() if each.series == series)
        given = feedback_on(course, "false_alarm", by="me", at_ms=1)
        self.publisher.send(message(given, self.settings.topics.feedback))
        self.publisher.flush(30)
        (lane,), deadline_s = self.worker.lanes, time.monotonic() + _DEADLINE_S
        while not (lane.feedback.words and lane.feedback.words.said) and time.monotonic() < deadline_s:
            self.worker.step()
        assert lane.feedback.words
        assert lane.feedback.words.said

    def swap(self) -> None:
        self.registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))
        self.registry.promote("machines", Promotion(2, "v2", 0, "test"))
        self.watcher.look()


def scores_in(path: Path, topic: str) -> list[Score]:
    """Return what a file of scores holds."""
    columns = Reader(path).read()
    series = columns.coded("series")
    numbers = [columns.array(name).tolist() for name in ("partition", "offset", "row", "time_ms")]
    names = [series.names[code] for code in series.code_N.tolist()]
    bits = [[number.tobytes() for number in columns.array(name)] for name in ("score", "threshold")]
    return [
        (TopicPartition(topic, partition), offset, row, name, time_ms, score, threshold)
        for partition, offset, row, time_ms, name, score, threshold in zip(*numbers, names, *bits, strict=True)
    ]


def test_incidents_and_scores_are_those_of_a_live_worker(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """With two partitions, late records and rejects, a swap, and feedback; to the bit."""
    topic, alerts, dead, said = map(unique, ("metrics", "alerts", "dead", "feedback"))
    connection = Connection(apache_broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 2, alerts: 1, dead: 1, said: 1})
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": topic}
    config = configured(
        tmp_path,
        apache_broker,
        kafka={"bootstrap_servers": apache_broker, "group_id": unique("group")},
        topics={"alerts": alerts, "dead_letters": dead, "feedback": said},
        streams={"machines": stream},
    )
    promote(config)
    with ExitStack() as stack:
        live = Live(stack, config, unique)
        live.go_on(0, SAID_AT)
        live.say_of_first("a")
        live.go_on(SAID_AT, SWAPPED_AT)
        live.swap()
        live.go_on(SWAPPED_AT, 10**6)
        live.worker.checkpoint()
        group = GroupOptions(unique("recorder"), session_timeout_s=6, max_poll_interval_s=6, max_poll_records=60)
        storage = ObjectStorage(load_settings(config).storage)
        source = stack.enter_context(closing(KafkaSource(connection, group, [topic])))
        record(source, storage, len(payloads()), SERIES.model_copy(update={"topic": topic}))
    adopted = StoredAdoptions(storage)
    for place in (TopicPartition(topic, 0), TopicPartition(topic, 1)):
        with closing(KafkaCluster(connection)) as cluster:
            entries = adopted.since("machines", place, cluster.topic(topic).id, 0).entries
        assert {entry.version for entry in entries} == {"v1", "v2"}
        assert entries[-1].words

    done = offkey("backtest", str(config), "--output", str(tmp_path / "out"), "--scores", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert [each["begins"] for each in told["partitions"]] == ["start", "start"]
    assert told["rows_late"] > 20
    assert set(told["versions"]) == {"v1", "v2"}
    assert told["by_feedback"]["false_alarm"] >= 1
    lines = (tmp_path / "out" / "machines" / "alerts.jsonl").read_text().splitlines()
    replayed = [{"id": event["id"], **event["data"]} for event in map(json.loads, lines)]
    published = events(connection, alerts)
    assert len(published) > 10
    for number, of_partition in by_partition(published).items():
        found = by_partition(replayed)[number]
        assert sorted(found, key=lambda alert: alert["id"]) == sorted(of_partition, key=lambda alert: alert["id"])
    assert len(replayed) == len(published)
    assert sorted(scores_in(tmp_path / "out" / "machines" / "scores.parquet", topic)) == sorted(live.stages.scores)
