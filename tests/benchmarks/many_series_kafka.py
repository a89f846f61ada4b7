"""A worker on Apache Kafka that begins with the state of very many series, for benchmarks.

The broker and the producer are pinned to all cores but the first, the worker with its threads to the first, so what
they take is kept out as far as there are two cores. The producer is librdkafka's, which takes little beside the
broker. Needs KAFKA_HOME.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer

from models.detector import Detector
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaSource, open_delivery
from pipeline.connectors.storage import ObjectStorage
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import Chain, Checkpoint, Part, TopicPartition
from pipeline.worker import Worker, WorkerOptions
from tests.benchmarks.many_series import TOPIC, lane_of, live_polls, parts_of
from tests.brokers import MISSING, ApacheBroker

PLACE = TopicPartition(TOPIC, 0)
INTERVAL_S = 60.0
_CHUNK = 200


@dataclass(frozen=True)
class Deployment:
    """A broker with the topic, storage, and a consumer group that has committed offset `committed`."""

    connection: Connection
    storage: ObjectStorage
    group_id: str
    cores: tuple[int, ...]

    def begin(self, detector: Detector, state: Arrays, committed: int) -> None:
        """Store a state as the checkpoint at offset 0, and commit an offset."""
        lane = lane_of(detector)
        with closing(KafkaSource(self.connection, GroupOptions(self.group_id), [TOPIC])) as source:
            facts = Checkpoint(lane.name, PLACE, source.topic_id(TOPIC), 0, "v1", lane.pipeline.shape)
        checkpoints, chain = StoredCheckpoints(self.storage), Chain()
        for arrays, closes in parts_of(state):
            checkpoints.write(Part(facts, chain, PartMemory.of(arrays), closes))
        self.commit(committed)

    def commit(self, offset: int) -> None:
        """Commit the group's next offset."""
        with closing(KafkaSource(self.connection, GroupOptions(self.group_id), [TOPIC])) as source:
            while not source.assignment().gained:
                source.poll(0.1)
            source.commit({PLACE: offset})

    @contextmanager
    def worker(self, detector: Detector, checkpoint_every_s: float = 10.0) -> Iterator[Worker]:
        group = GroupOptions(self.group_id, fetch_min_bytes=20_000)
        options = WorkerOptions("alerts", "dead", checkpoint_every_s=checkpoint_every_s)
        with ExitStack() as stack:
            source = stack.enter_context(closing(KafkaSource(self.connection, group, [TOPIC])))
            delivery = stack.enter_context(closing(open_delivery("at_least_once", self.connection, group, source)))
            state = StoredCheckpoints(self.storage), StoredAdoptions(self.storage)
            yield Worker([lane_of(detector)], source, delivery, *state, options)

    def producer(self, series: int, low: int, high: int, per_s: float) -> "subprocess.Popen[bytes]":
        """Begin to produce the records from `low` to `high`, so many a second (0: as fast as can be)."""
        command = [sys.executable, "-m", "tests.benchmarks.many_series_kafka", self.connection.bootstrap_servers]
        command += [str(series), str(low), str(high), str(per_s), ",".join(map(str, self.cores[1:] or self.cores))]
        return subprocess.Popen(command)


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """Start a broker in a folder, and pin this process."""
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
    with closing(ApacheBroker(folder)) as broker:
        os.sched_setaffinity(0, {cores[0]})
        connection = Connection(broker.bootstrap_servers)
        with closing(KafkaCluster(connection)) as cluster:
            cluster.create_topics({TOPIC: 1, "alerts": 1, "dead": 1})
        storage = ObjectStorage((folder / "storage").as_uri())
        yield Deployment(connection, storage, uuid.uuid4().hex, cores)


def produce(servers: str, series: int, low: int, high: int, per_s: float) -> None:
    """Send every series' points in turn, in their pace."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000})
    began_s, sent, number = time.perf_counter(), 0, 0
    for polled in live_polls(PLACE, series, _CHUNK):
        for record in polled.records:
            if low <= number < high:
                producer.produce(TOPIC, record.value, record.key)
                sent += 1
            number += 1
        if number >= high:
            break
        ahead_s = began_s + sent / per_s - time.perf_counter() if per_s else 0.0
        if ahead_s > 0:
            time.sleep(ahead_s)
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("records were not confirmed within a minute")


if __name__ == "__main__":
    servers, series, low, high, per_s, cores = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    produce(servers, int(series), int(low), int(high), float(per_s))
