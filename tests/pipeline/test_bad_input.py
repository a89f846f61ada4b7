"""Every kind of bad record on a real broker: rejected alone, kept as it came, counted by its reason."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from prometheus_client import REGISTRY

from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.connectors.storage import ObjectStorage
from pipeline.delivery import AtLeastOnce
from pipeline.protocols import Message
from pipeline.worker import Worker, WorkerOptions
from tests.commands import events
from tests.streams import BEGIN_MS, Bench, Payload, drain, lanes, series_payloads

_DEADLINE_S = 60.0
_LARGEST = 9_000_000


def row(**fields: Any) -> bytes:
    return json.dumps({"ts": BEGIN_MS + 10**10, "cpu": 1.0, "mem": 1.0} | fields).encode()


def spelled(value: str) -> bytes:
    return b'{"ts": 1, "cpu": %s, "mem": 1}' % value.encode()


def bad_payloads() -> list[tuple[str, Payload]]:
    """Each kind with the reason that it is rejected for."""
    return [
        ("not_json", (b"a", b"nonsense")),
        ("not_json", (b"a", b'{"cpu": 1')),
        ("not_utf8", (b"a", b'{"ts": 1, "cpu": 1, "mem": 1, "note": "\xff\xfe"}')),
        ("not_utf8", (b"a", b"\x80\x00\x01")),
        ("not_object", (b"a", b"[1, 2]")),
        ("missing_field", (b"a", b'{"ts": 1, "cpu": 1}')),
        ("missing_field", (b"a", b'{"ts": 1, "cpu": 1, "Mem": 1}')),
        ("missing_field", (b"a", row(cpu=None))),
        ("wrong_type", (b"a", row(cpu="0.5"))),
        ("wrong_type", (b"a", row(cpu="NaN"))),
        *[("not_finite", (b"a", spelled(value))) for value in ("NaN", "Infinity", "-Infinity", "1e999", "-1E999")],
        *[("not_json", (b"a", spelled(value))) for value in ("nan", "-inf", "+Infinity")],
        ("too_large", (b"a", row(note="x" * 5_000_000))),
        ("too_deep", (b"a", b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}")),
        ("empty", (b"a", b"")),
        ("tombstone", (b"a", None)),
        ("missing_field", (b"a", b'{"cpu": 1, "mem": 1}')),
        ("wrong_type", (b"a", row(ts="2024-01-01"))),
        ("bad_time", (b"a", row(ts=-1))),
        ("bad_time", (b"a", row(ts=1e300))),
        ("bad_time", (b"a", row(ts=BEGIN_MS * 1_000_000))),
        ("time_ahead", (b"a", row(ts=int(time.time() * 1000) + 7_200_000))),
        ("no_series", (None, row())),
        ("no_series", (b"\xff", row())),
        ("tombstone", (None, None)),
    ]


@dataclass
class Topics:
    metrics: str
    payments: str
    alerts: str
    dead: str


@pytest.fixture(params=["embedded", "apache"])
def placed(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> tuple[str, Topics]:
    """A broker, and topics on it that take a record of 5 MB."""
    broker = request.getfixturevalue(f"{request.param}_broker")
    topics = Topics(*map(unique, ("metrics", "payments", "alerts", "dead")))
    if request.param == "embedded":  # It takes any size, and no settings.
        with closing(KafkaCluster(Connection(broker))) as cluster:
            cluster.create_topics(dict.fromkeys(vars(topics).values(), 1))
    else:
        options = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": str(_LARGEST)}}
        with closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
            admin.create_topics(dict.fromkeys(vars(topics).values(), options))
    return broker, topics


def rejected() -> Counter[str]:
    """What the metric has counted so far, by reason."""
    return Counter(
        {
            sample.labels["reason"]: int(sample.value)
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "offkey_records_rejected_total" and sample.labels["stream"] == "machines"
        }
    )


def without_place(alert: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in alert.items() if key not in ("id", "incident", "offset", "topic")}


def test_each_bad_record_is_rejected_alone_and_kept_as_it_came(placed: tuple[str, Topics], tmp_path: Path) -> None:
    broker, topics = placed
    good, bad = series_payloads(160), bad_payloads()
    mixed: list[Payload] = []
    for number, payload in enumerate(good):
        mixed.append(payload)
        if number % 20 == 7 and number // 20 < len(bad):
            mixed.append(bad[number // 20][1])
    assert len(mixed) == len(good) + len(bad)

    connection, headers = Connection(broker), [("trace", b"\x00\xff"), ("trace", b"2")]
    with closing(KafkaPublisher(connection)) as publisher:
        for key, value in mixed:
            publisher.send(Message(topics.metrics, key, value, headers))
        publisher.flush(60)

    before = rejected()
    own = [replace(lane, topic=getattr(topics, lane.topic)) for lane in lanes()]
    options = GroupOptions(f"group-{topics.metrics}", session_timeout_s=6, max_poll_interval_s=6)
    with (
        closing(KafkaSource(connection, options, [lane.topic for lane in own])) as source,
        closing(KafkaPublisher(connection)) as publisher,
    ):
        storage, delivery = ObjectStorage(tmp_path.as_uri()), AtLeastOnce(publisher, source)
        state, sinks = (StoredCheckpoints(storage), StoredAdoptions(storage)), (topics.alerts, topics.dead)
        worker = Worker(own, source, delivery, *state, WorkerOptions(*sinks))
        read, deadline_s = 0, time.monotonic() + _DEADLINE_S
        while read < len(mixed) and time.monotonic() < deadline_s:
            read += worker.step()
    assert read == len(mixed)

    letters = [record for arrived in history(connection, topics.dead, 1000) for record in arrived.records]
    offset_of = [offset for offset, payload in enumerate(mixed) if payload not in good]
    assert len(letters) == len(bad)
    for letter, offset, (reason, (key, value)) in zip(letters, offset_of, bad, strict=True):
        assert letter.value == value, reason
        assert letter.key == key
        assert [tuple(header) for header in letter.headers[:2]] == headers
        said = {name.removeprefix("__connect.errors."): text.decode() for name, text in letter.headers[2:]}
        assert said.pop("exception.message")
        assert said == {
            "topic": topics.metrics,
            "partition": "0",
            "offset": str(offset),
            "stage": "VALUE_CONVERTER",
            "exception.class.name": f"offkey.{reason}",
        }
    assert rejected() - before == Counter(reason for reason, _ in bad)

    twin = Bench(partitions=1)
    twin.fill(good)
    drain(twin.worker())
    assert {alert["series"] for alert in twin.alerts()} >= {"a", "b", "new"}
    assert list(map(without_place, events(connection, topics.alerts))) == [
        {**without_place(alert), "score": pytest.approx(alert["score"], abs=1e-5)} for alert in twin.alerts()
    ]
