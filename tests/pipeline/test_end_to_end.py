"""The worker on real brokers: the same incidents as on the twin, and as many after a SIGKILL."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.connectors.storage import ObjectStorage
from pipeline.delivery import AtLeastOnce
from pipeline.protocols import TopicPartition
from pipeline.stopping import Stop
from pipeline.worker import Worker, WorkerOptions
from tests.commands import Running, events, metrics_of, offkey, produce, wait_for
from tests.pipeline.end_to_end import configured_for, create_topics
from tests.streams import FEATURES, SERIES, Bench, drain, feature_payloads, lanes, series_payloads

_DEADLINE_S = 60.0


@pytest.fixture
def topics(broker: str, unique: Callable[[str], str]) -> dict[str, str]:
    return create_topics(broker, unique, "metrics", "payments")


def test_incidents_are_those_of_the_twin(broker: str, topics: dict[str, str], tmp_path: Path) -> None:
    bench = Bench(partitions=1, metrics=topics["metrics"], payments=topics["payments"])
    bench.fill(series_payloads(), feature_payloads())
    drain(bench.worker())

    connection = Connection(broker)
    produce(connection, topics["metrics"], series_payloads())
    produce(connection, topics["payments"], feature_payloads())
    options = GroupOptions(topics["group"], session_timeout_s=6, max_poll_interval_s=6, max_poll_records=2000)
    own = [replace(lane, topic=topics[lane.topic]) for lane in lanes()]
    source = KafkaSource(connection, options, [lane.topic for lane in own])
    publisher = KafkaPublisher(connection)
    with closing(source), closing(publisher):
        storage = ObjectStorage(tmp_path.as_uri())
        state = StoredCheckpoints(storage), StoredAdoptions(storage)
        delivery = AtLeastOnce(publisher, source)
        worker = Worker(own, source, delivery, *state, WorkerOptions(topics["alerts"], topics["dead"]))
        expected, scored = 800 + 400, 0
        deadline_s = time.monotonic() + _DEADLINE_S
        while scored < expected and time.monotonic() < deadline_s:
            scored += worker.step()
    assert scored == expected

    found = {each["id"]: each for each in events(connection, topics["alerts"])}
    twin = {each["id"]: each for each in bench.alerts()}
    assert found.keys() == twin.keys()
    for name, alert in twin.items():
        assert found[name]["score"] == pytest.approx(alert["score"], abs=1e-5)
        assert (found[name]["incident"], found[name]["series"]) == (alert["incident"], alert["series"])


@pytest.fixture
def config(broker: str, topics: dict[str, str], tmp_path: Path) -> Path:
    """A configuration with a trained model for both streams, written as a user would."""
    model = {"architecture": "vanilla", "hidden": 8, "max_epochs": 2}
    streams = {
        name: settings.model_dump(mode="json", exclude_unset=True) | {"topic": topics[topic], "model": model}
        for name, settings, topic in (("machines", SERIES, "metrics"), ("payments", FEATURES, "payments"))
    }
    # As much as the four series' own budgets: the worker asks for the partitions that share it.
    streams["machines"]["alerts"] |= {"stream_budget": "4 per day", "storm": 50}
    kafka, worker = {"max_poll_records": 60}, {"checkpoint_every": 0.2}
    return configured_for(tmp_path, broker, topics, streams, kafka=kafka, worker=worker)


@pytest.fixture
def running(config: Path) -> Iterator[Callable[[], Running]]:
    with ExitStack() as started:
        yield lambda: started.enter_context(Running(config))


def test_the_path_of_a_user(
    broker: str, topics: dict[str, str], config: Path, running: Callable[[], Running]
) -> None:
    """check, train, check, worker, kill -9 in the middle, worker again: nothing is lost."""
    connection = Connection(broker)
    produce(connection, topics["metrics"], series_payloads(300, seed=7))
    produce(connection, topics["payments"], feature_payloads(600, seed=8))
    before = offkey("check", "--json", str(config))
    assert before.returncode == 1, before.stderr
    wrong = {row["what"] for row in json.loads(before.stdout) if row["verdict"] == "wrong"}
    assert wrong == {"machines: model", "payments: model"}

    trained = offkey("train", str(config))
    assert trained.returncode == 0, trained.stderr
    assert "machines: vanilla on 1,200 records of 4 series" in trained.stdout
    # What training has seen, spikes too, is no surprise; these are.
    later = [(key, json.loads(value or b"")) for key, value in series_payloads(330, seed=7)[1200:]]
    moved = [
        (key, json.dumps({**row, "cpu": row["cpu"] + 20 * (n // 4 == 20)})) for n, (key, row) in enumerate(later)
    ]
    produce(connection, topics["metrics"], [(key, text.encode()) for key, text in moved])
    after = offkey("check", str(config))
    assert after.returncode == 0, after.stdout + after.stderr
    assert "wrong" not in after.stdout

    def scored(at_least: int) -> bool:
        try:
            lines = metrics_of(config).splitlines()
        except OSError:
            return False
        return sum(float(line.split()[-1]) for line in lines if line.startswith("offkey_records_total")) >= at_least

    first = running()
    wait_for(lambda: scored(300), first)
    served = metrics_of(config)
    for listed in ("records", "batch_records_bucket", "stage_duration_seconds_bucket", "series", "lag_records"):
        assert f"offkey_{listed}" in served
    version = re.search(r'offkey_model_info{architecture="vanilla",stream="machines",version="(.+)"} 1\.0', served)
    assert version is not None
    assert f"version {version[1]}" in trained.stdout
    promoted = re.search(r'offkey_model_promoted_timestamp_seconds{stream="machines"} (.+)', served)
    assert promoted is not None
    assert 0 <= time.time() - float(promoted[1]) < 120
    assert 'offkey_state_restored_total{how="cold",stream="machines"} 1.0' in served
    taken_by_prometheus(served)
    first.end(signal.SIGKILL)
    produce(connection, topics["payments"], [(None, b"nonsense")])
    second = running()
    # A poll may bring one stream's records only: neither says how far the other has come.
    wait_for(lambda: letters(connection, topics) == 1 and len(alerting(connection, topics)) == 2, second)
    assert second.end() == ""
    assert second.process.returncode == 0
    openings = [each for each in events(connection, topics["alerts"]) if each["state"] == "opened"]
    assert {50, 51, 300} <= {each["offset"] for each in openings if each["stream"] == "payments"}


def alerting(connection: Connection, topics: dict[str, str]) -> set[str]:
    return {each["stream"] for each in events(connection, topics["alerts"]) if each["state"] == "opened"}


def taken_by_prometheus(served: str) -> None:
    """See that promtool takes what is served, where it is installed."""
    if shutil.which("promtool") is not None:
        asked = ["promtool", "check", "metrics"]
        checked = subprocess.run(asked, input=served, capture_output=True, text=True, timeout=30)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout + checked.stderr


def letters(connection: Connection, topics: dict[str, str]) -> int:
    return sum(len(arrived.records) for arrived in history(connection, topics["dead"], 1000))


class Member:
    """A worker of a group on a thread of its own, as on a machine of its own."""

    def __init__(self, connection: Connection, names: dict[str, str], run: str, folder: Path) -> None:
        group = GroupOptions(
            f"{names['group']}-{run}", session_timeout_s=6, max_poll_interval_s=10, max_poll_records=37
        )
        self.source = KafkaSource(connection, group, [names["metrics"], names["payments"]])
        self.publisher = KafkaPublisher(connection)
        own = [replace(lane, topic=names[lane.topic]) for lane in lanes()]
        storage = ObjectStorage((folder / run).as_uri())
        options = WorkerOptions(names[run], names["dead"], poll_timeout_s=0.3, checkpoint_every_s=0.3)
        state = StoredCheckpoints(storage), StoredAdoptions(storage)
        self.worker = Worker(own, self.source, AtLeastOnce(self.publisher, self.source), *state, options)
        self._stop = Stop()
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(self.worker.run, self._stop)

    def reached(self) -> dict[TopicPartition, int]:
        return {place: progress.next_offset for place, progress in dict(self.worker.partitions.progress).items()}

    def leave(self) -> None:
        """End as SIGTERM does: the step in hand is finished and committed."""
        self._stop.set()
        self._running.result(timeout=30)
        self.source.close()
        self.publisher.close()
        self._pool.shutdown()


def until_done(members: Sequence[Member], produced: dict[TopicPartition, int]) -> None:
    """Wait until the members' states stand behind all that was produced."""
    deadline_s, pause = time.monotonic() + 2 * _DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        reached = {place: at for member in members for place, at in member.reached().items()}
        if all(reached.get(place, -1) >= end for place, end in produced.items()):
            return
        pause.wait(0.1)
    raise AssertionError(f"not everything was reached in time: {[member.reached() for member in members]}")


def test_members_that_come_and_go_publish_what_one_alone_does(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    connection = Connection(apache_broker)
    names = {name: unique(name) for name in ("metrics", "payments", "alone", "group", "together", "dead")}
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({names["metrics"]: 3, names["payments"]: 1, names["alone"]: 1})
        cluster.create_topics({names["together"]: 1, names["dead"]: 1})
    members = [Member(connection, names, "together", tmp_path)]
    for number in range(4):
        produce(connection, names["metrics"], series_payloads()[number * 200 : number * 200 + 200])
        produce(connection, names["payments"], feature_payloads()[number * 100 : number * 100 + 100])
        if number in (1, 2):
            members.append(Member(connection, names, "together", tmp_path))
        if number == 3:
            members.pop(0).leave()
        until_done(members, ends(connection, names))
    for member in members:
        member.leave()
    alone = Member(connection, names, "alone", tmp_path)
    until_done([alone], ends(connection, names))
    alone.leave()

    expected = {each["id"]: each for each in events(connection, names["alone"])}
    found = {each["id"]: each for each in events(connection, names["together"])}
    assert len(expected) > 10
    assert found == expected


def ends(connection: Connection, names: dict[str, str]) -> dict[TopicPartition, int]:
    """Return where each partition ends now; empty ones left out."""
    found: dict[TopicPartition, int] = {}
    for topic in (names["metrics"], names["payments"]):
        for arrived in history(connection, topic, 100_000):
            found[arrived.partition] = arrived.next_offset
    return found
