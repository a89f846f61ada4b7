"""All of offkey under a real Prometheus: a worker, a recorder, a scheduler and a notifier of one stream.

Their ports speak TLS. What they do is real: the recorder keeps what comes in, the scheduler trains the first model
on that, the worker takes it and alerts, and a receiver is told.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pipeline.cli_who_when import now, now_ms
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from tests.certificates import Authority
from tests.commands import Running, configured, produce, wait_for
from tests.prometheus import PrometheusProcess
from tests.receiving import Hook
from tests.streams import SERIES, STEP_MS, Payload, series_rows

NAMES, HISTORY, LATER = ("a", "b"), 900, 100
_SPIKES = {"a": [HISTORY + at for at in (30, 60, 110, 125)], "b": [HISTORY + at for at in (40, 118)]}


@dataclass
class Watched:
    """A deployment, and the Prometheus that watches it."""

    prometheus: PrometheusProcess
    worker: Running
    produce: Callable[[Sequence[Payload]], None]
    """Publish records of its stream."""


@contextmanager
def watched(folder: Path, broker: str) -> Iterator[Watched]:
    """Run it until the block ends; it has done all that it is for by then."""
    ports = {f"offkey-{name}": free_port() for name in ("worker", "recorder", "scheduler", "notify")}
    topics = {name: f"watched-{name}" for name in ("alerts", "dead_letters", "feedback", "control")}
    stream = {**SERIES.model_dump(mode="json", exclude_unset=True), "topic": "watched"}
    stream |= {"model": {"architecture": "vanilla", "hidden": 8, "max_epochs": 2}}
    stream |= {"retrain": {"every": "24h", "on_drift": True}}
    connection = Connection(broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({"watched": 1, **dict.fromkeys(topics.values(), 1)})
    payloads = _payloads()
    authority = Authority(folder)
    served = authority.sign("served", ["127.0.0.1"], until=now() + timedelta(days=60))
    asked = {"scheme": "https", "tls_config": {"ca_file": str(authority.certificate)}}
    produce(connection, "watched", payloads[: HISTORY * len(NAMES)])
    with ExitStack() as opened:
        hook = opened.enter_context(Hook())
        config = configured(
            folder,
            broker,
            kafka={"bootstrap_servers": broker, "group_id": "watched", "max_poll_interval": 6},
            streams={"machines": stream},
            topics=topics,
            metrics={"port": ports["offkey-worker"], "certificate_file": str(served)},
            recorder={"port": ports["offkey-recorder"], "file_age": 0.5, "tidy_every": 1},
            scheduler={"port": ports["offkey-scheduler"]},
            notify={
                "port": ports["offkey-notify"],
                "receivers": {"pager": {"type": "alertmanager", "url": hook.url, "resend": 1}},
            },
        )
        prometheus = opened.enter_context(PrometheusProcess(folder, ports, dict.fromkeys(ports, asked)))
        opened.enter_context(Running(config, "warning", "record"))
        opened.enter_context(Running(config, "warning", "notify"))
        scheduler = opened.enter_context(Running(config, "warning", "schedule"))
        registry = StoredRegistry(ObjectStorage(load_settings(config).storage))
        wait_for(lambda: registry.champion("machines") is not None, scheduler)
        worker = opened.enter_context(Running(config, "warning", "worker"))
        wait_for(_tells(prometheus, 'offkey_records_total{job="offkey-worker"} >= 1800'), worker)
        produce(connection, "watched", [*payloads[HISTORY * len(NAMES) :], (b"a", b"no record")])
        # Of the last one: what the first ones have alerted may be told before the others are seen to be read.
        wait_for(_tells(prometheus, 'offkey_records_rejected_total{job="offkey-worker"} > 0'), worker)
        wait_for(_tells(prometheus, 'offkey_notify_alerts_total{outcome="delivered"} > 0'), worker)
        wait_for(_tells(prometheus, "stream:offkey_incidents:increase1d > 0"), worker)
        yield Watched(prometheus, worker, lambda more: produce(connection, "watched", more))


def _payloads() -> Sequence[Payload]:
    """Return records of two series up to now, in turn, with spikes in the newest of them."""
    return [each for payloads in _by_time(HISTORY + LATER, now_ms()) for each in payloads]


def later_payloads(points: int) -> Iterator[Sequence[Payload]]:
    """Yield what comes after these records, a record of each series at a time."""
    yield from _by_time(HISTORY + LATER + points, now_ms() + points * STEP_MS)[HISTORY + LATER :]


def _by_time(points: int, end_ms: int) -> list[list[Payload]]:
    values = series_rows(NAMES, points, 3, _SPIKES)
    begin_ms = end_ms - STEP_MS * points
    return [
        [
            (name.encode(), json.dumps({"ts": begin_ms + STEP_MS * point, "cpu": cpu, "mem": mem}).encode())
            for name, (cpu, mem) in zip(NAMES, values[:, point].tolist(), strict=True)
        ]
        for point in range(points)
    ]


def _tells(prometheus: PrometheusProcess, expression: str) -> Callable[[], bool]:
    return lambda: bool(prometheus.values(expression))
