"""Alerts to a webhook on loopback, killed half way: `python -m tests.benchmarks.notify [--alerts N]`.

A topic on Apache Kafka is filled beforehand with alerts as a worker publishes them. `offkey notify`, a process as
users run it with the settings that they get, sends each as a signed request of its own over one connection, to a
server in a process of its own that reads every request whole, notes its `webhook-id` and answers. It is killed
(SIGKILL) when half of them are there, and started again with the same `kafka.instance_id`; after it a second run
does all of them without a kill, for the rate, which counts from the first request to the last one.

`lost`: alerts of the topic that the server was never told; `repeated`: told more than once. Both are of the killed
run; the other's are in `undisturbed`. The sender has the first core, broker and server share the others. Needs
KAFKA_HOME.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.stages.alerts import Alert, FeatureView, message
from tests.brokers import MISSING, ApacheBroker
from tests.commands import Running, committed, configured, wait_for

ALERTS, TOPIC = 20_000, "offkey.alerts"
CORES = os.sched_getaffinity(0)
_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Server(asyncio.Protocol):
    """HTTP/1.1 on one connection, as far as a sender of POST requests needs it."""

    def __init__(self, ids: list[str], times_s: list[float]) -> None:
        self._ids, self._times_s, self._buffer = ids, times_s, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode().split("\r\n")[1:]
            headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
            whole = end + 4 + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            event = json.loads(self._buffer[end + 4 : whole])
            assert event["id"] == headers["webhook-id"]
            assert headers["webhook-signature"].startswith("v1,")
            self._buffer = self._buffer[whole:]
            self._ids.append(event["id"])
            self._times_s.append(time.monotonic())
            self._transport.write(_ANSWER)


def serve(pipe: Pipe) -> None:
    """Serve until asked, in this process; then send the ids and when each came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ids: list[str] = []
    times_s: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Server(ids, times_s), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        while True:
            asked = await loop.run_in_executor(None, pipe.recv)
            pipe.send(len(ids) if asked == "count" else (ids, times_s))
            if asked != "count":
                return

    asyncio.run(run())


@contextmanager
def server() -> Iterator[tuple[int, Callable[[str], Any]]]:
    """Run a server in a process of its own; yield its port, and what asks it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()

    def ask(what: str) -> Any:
        ours.send(what)
        return ours.recv()

    try:
        yield ours.recv(), ask
    finally:
        process.kill()
        process.join()


def alert(number: int) -> Alert:
    """Return an alert as a worker tells it of eight features."""
    features = {f"feature-{n}": FeatureView(0.93 + n, 0.31 + n, 0.125, 0.11) for n in range(8)}
    host, at_ms = f"web-{number % 1000}", 1_700_000_000_000 + number
    return Alert(
        incident=f"{number:032x}",
        stream="machines",
        series=host,
        fields={"host": host},
        state="opened",
        severity="major",
        score=43.2,
        threshold=31.5,
        opened_ms=at_ms,
        event_ms=at_ms,
        features=features,
        model_version="20261130T010524-b02c6d02",
        topic="metrics",
        partition=0,
        offset=number,
    )


def told(folder: Path, broker: str, port: int, group: str) -> Path:
    """Return a configuration of one webhook."""
    folder.mkdir()
    secret = folder / "secret"
    secret.write_text("a secret\n")
    hook = {"type": "webhook", "url": f"http://127.0.0.1:{port}/", "secret_file": str(secret), "start": "earliest"}
    kafka = {"bootstrap_servers": broker, "group_id": group, "instance_id": "notify-0"}
    return configured(folder, broker, kafka=kafka, notify={"port": 0, "receivers": {"hook": hook}})


def run(folder: Path, broker: str, alerts: int, *, killed: bool) -> dict[str, Any]:
    """Send all alerts of the topic, killed when half of them are there or not; return what came of it."""
    with server() as (port, ask):
        config, group = told(folder, broker, port, folder.name), f"{folder.name}-notify-hook"
        os.sched_setaffinity(0, {sorted(CORES)[0]})
        if killed:
            with Running(config, "warning", "notify") as running:
                wait_for(lambda: ask("count") >= alerts // 2, running)
                running.process.send_signal(signal.SIGKILL)
                running.process.wait(10)
        with Running(config, "warning", "notify") as running:
            wait_for(lambda: committed(broker, group).get(TOPIC) == alerts, running)
            running.end()
        os.sched_setaffinity(0, CORES)
        ids, times_s = ask("all")
    wanted = {alert(number).id for number in range(alerts)}
    counted = Counter(ids)
    assert counted.keys() <= wanted
    return {
        "alerts_per_s": round((len(ids) - 1) / (times_s[-1] - times_s[0])),
        "lost": len(wanted - counted.keys()),
        "repeated": sum(count - 1 for count in counted.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--alerts", type=int, default=ALERTS)
    alerts = parser.parse_args().alerts
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, CORES - {sorted(CORES)[0]} or CORES)
        broker = stack.enter_context(closing(ApacheBroker(folder)))
        os.sched_setaffinity(0, CORES)
        connection = Connection(broker.bootstrap_servers)
        with closing(KafkaCluster(connection)) as cluster:
            cluster.create_topics({TOPIC: 1, "offkey.dead-letters": 1})
        size = 0
        with closing(KafkaPublisher(connection)) as publisher:
            for number in range(alerts):
                sent = message(alert(number), TOPIC)
                size += len(sent.value or b"")
                publisher.send(sent)
            publisher.flush(60)
        killed = run(folder / "killed", broker.bootstrap_servers, alerts, killed=True)
        undisturbed = run(folder / "undisturbed", broker.bootstrap_servers, alerts, killed=False)
    printed = {
        "alerts_per_s": undisturbed["alerts_per_s"],
        "lost": killed["lost"],
        "repeated": killed["repeated"],
        "alerts": alerts,
        "alert_bytes": round(size / alerts),
        "undisturbed": {name: undisturbed[name] for name in ("lost", "repeated")},
        "machine": f"{platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
