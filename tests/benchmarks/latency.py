"""From a record to its alert: `python -m tests.benchmarks.latency [--seconds S] [--rates R ...]`.

A producer sends records at a steady rate to Apache Kafka, one in a hundred of them strange; `offkey worker`, a
process as users run it, scores them; a consumer in a process of its own takes the alerts. An alert's latency runs
from the Kafka timestamp that the producer gave the record (whole milliseconds) to its arrival at the consumer.
The worker has a core of its own; broker, producer and consumer share the others, so what they take is kept out of
its share and does lengthen the latency. The producer is librdkafka's: kafka-python's takes a core for 12,000
records a second, and then the latency would be that of its queue. Each leg begins with `WARM_S` seconds that do not
count.

The line holds the latency of the fastest leg and the share of a core of the slowest; all are under `legs`.
Needs KAFKA_HOME.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka import Producer

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaSource
from pipeline.stages.alerts import structured
from tests.brokers import MISSING, ApacheBroker
from tests.commands import Running, metrics_of, offkey, wait_for

SERIES, HISTORY, STRANGE = 200, 300, 100
WARM_S, TICK_S = 5.0, 0.005
_TRAILING_S = 2.0
"""From the last record to the worker's end: its alert is sent and taken as those before it, not by a stop."""
FEATURES = ("cpu", "mem", "net")


def configuration(folder: Path, broker: str, rate: int) -> Path:
    """Write the configuration of one leg, with a topic and a group of its own."""
    path = folder / f"{rate}.yaml"
    settings = {
        "kafka": {
            "bootstrap_servers": broker,
            "group_id": f"latency-{rate}",
            "fetch_min_bytes": 20_000,
            "fetch_max_wait": "20ms",
        },
        "storage": (folder / str(rate)).as_uri(),
        "topics": {"alerts": f"alerts-{rate}", "dead_letters": f"dead-{rate}"},
        "streams": {
            "hosts": {
                "topic": f"hosts-{rate}",
                "features": list(FEATURES),
                "model": {"architecture": "vanilla", "max_epochs": 2},
                "alerts": {"budget": "1 per 1000 records", "merge_points": 0},
                "start": "latest",
            }
        },
        "metrics": {"port": free_port()},
        "device": "cpu",
    }
    path.write_text(json.dumps(settings))
    return path


class Records:
    """Payloads made beforehand, taken in turn: a cycle with noise in each series, one in `STRANGE` far off."""

    def __init__(self) -> None:
        random, rows = np.random.default_rng(0), 500
        phase = np.arange(rows)[:, None, None] / 25 + np.arange(SERIES)[None, :, None] + np.arange(len(FEATURES))
        x = np.sin(2 * np.pi * phase) + 0.1 * random.standard_normal(phase.shape)
        self.usual = self._encoded(x)
        self.strange = self._encoded(x + 10)
        self._random, self._taken = random, 0

    def take(self, count: int, *, strange: bool) -> list[tuple[bytes, bytes]]:
        """Return keys and values."""
        numbers = range(self._taken, self._taken + count)
        self._taken += count
        odd_N = self._random.random(count) < strange / STRANGE
        return [
            (self.strange if odd else self.usual)[number % len(self.usual)]
            for number, odd in zip(numbers, odd_N.tolist(), strict=True)
        ]

    def _encoded(self, x: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[bytes, bytes]]:
        return [
            (b"host-%03d" % series, json.dumps(dict(zip(FEATURES, row, strict=True))).encode())
            for of_time in x.round(4).tolist()
            for series, row in enumerate(of_time)
        ]


def consume(servers: str, topic: str, pipe: Pipe) -> None:
    """Take alerts until told to end; hand back [(state, event ms, received ms)]."""
    taken: list[tuple[str, int, float]] = []
    options = GroupOptions(f"{topic}-reader", fetch_max_wait_ms=500)
    with closing(KafkaSource(Connection(servers), options, [topic])) as source:
        while not pipe.poll():
            for place in source.assignment().gained:
                source.start(place, 0)
                pipe.send("ready")
            for arrived in source.poll(0.2):
                now_ms = time.time() * 1000
                for record in arrived.records:
                    alert = structured(dict(record.headers), record.value or b"").data
                    taken.append((alert.state, alert.event_ms, now_ms))
    pipe.recv()
    pipe.send(taken)


def leg(folder: Path, broker: str, rate: int, seconds: float, worker_core: set[int]) -> dict[str, Any]:
    """Run at one rate; return its figures."""
    config, records, connection = configuration(folder, broker, rate), Records(), Connection(broker)
    topic, alerts = f"hosts-{rate}", f"alerts-{rate}"
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1, alerts: 1, f"dead-{rate}": 1})
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 2})
    for _ in range(HISTORY):
        for key, value in records.take(SERIES, strange=False):
            producer.produce(topic, value, key)
        # Their Kafka timestamps are their time, and have to differ.
        time.sleep(0.001)
    assert not producer.flush(60)
    trained = offkey("train", str(config))
    assert trained.returncode == 0, trained.stderr
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    consumer = multiprocessing.get_context("spawn").Process(target=consume, args=(broker, alerts, theirs))
    consumer.start()
    assert ours.recv() == "ready"
    with on_cores(worker_core, lambda: Running(config)) as running:
        process = psutil.Process(running.process.pid)
        wait_for(lambda: "offkey_partitions_assigned" in metrics_or_nothing(config), running)
        produce(producer, records, topic, rate, WARM_S)
        begun_ms, before_s = time.time() * 1000, busy_s(process)
        sent = produce(producer, records, topic, rate, seconds)
        took_s, used_s = time.time() - begun_ms / 1000, busy_s(process) - before_s
        assert not producer.flush(30)
        time.sleep(_TRAILING_S)
        said = running.end()
        assert running.process.returncode == 0, said
    ours.send("end")
    taken = ours.recv()
    consumer.join()
    latency_ms = [got - event for state, event, got in taken if state == "opened" and event >= begun_ms]
    p50, p99 = np.percentile(latency_ms, [50, 99])
    return {
        "records_per_s": round(sent / took_s),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "cpu_share": round(used_s / took_s, 3),
        "alerts": len(latency_ms),
    }


def produce(producer: Producer, records: Records, topic: str, rate: int, seconds: float) -> int:
    """Send at a steady rate, a bunch every `TICK_S`; return how many records were sent."""
    begun_s, sent = time.perf_counter(), 0
    while (gone_s := time.perf_counter() - begun_s) < seconds:
        due = int(gone_s * rate) - sent
        for key, value in records.take(due, strange=True):
            producer.produce(topic, value, key)
        producer.poll(0)
        sent += due
        time.sleep(TICK_S)
    return sent


def on_cores(cores: set[int], start: Callable[[], Running]) -> Running:
    """Start a process that has these cores for itself."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return start()
    finally:
        os.sched_setaffinity(0, ours)


def metrics_or_nothing(config: Path) -> str:
    try:
        text = metrics_of(config)
    except OSError:
        return ""
    return text if 'offkey_partitions_assigned{stream="hosts"} 1.0' in text else ""


def busy_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rates", type=int, nargs="+", default=[5_000, 20_000])
    asked = parser.parse_args(arguments)
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(closing(ApacheBroker(folder)))
        legs = {
            rate: leg(folder, broker.bootstrap_servers, rate, asked.seconds, {cores[0]}) for rate in asked.rates
        }
    fastest, slowest = legs[max(legs)], legs[min(legs)]
    printed = {
        **{key: fastest[key] for key in ("records_per_s", "p50_ms", "p99_ms")},
        "cpu_share": slowest["cpu_share"],
        "legs": list(legs.values()),
        "machine": f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
