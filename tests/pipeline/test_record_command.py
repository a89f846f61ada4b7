"""`offkey record` as its users run it, on real brokers: killed, stopped, probed, and what it says when it cannot
start."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaLog
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.fields import decoder_of
from pipeline.protocols import TopicPartition
from pipeline.versions.log import Promotion
from tests.commands import Running, configured, offkey, only_line, produce, promote, wait_for
from tests.snapshots import Row, told
from tests.streams import SERIES, series_payloads

FEATURES = ("cpu", "mem")
Made = Callable[..., "Deployed"]


class Deployed:
    """A configured stream, and its topic of two partitions on a broker."""

    def __init__(self, folder: Path, broker: str, unique: Callable[[str], str], **kafka: Any) -> None:
        self.broker, self.connection = broker, Connection(broker)
        self.topic, self.group, self.port = unique("metrics"), unique("group"), free_port()
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics({self.topic: 2})
        timeouts = {"session_timeout": 6, "max_poll_interval": 6}
        self.config = configured(
            folder,
            broker,
            kafka={"bootstrap_servers": broker, "group_id": self.group, **timeouts, **kafka},
            streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.topic}},
            recorder={"port": self.port, "file_age": 0.2, "file_rows": 60},
        )

    def produce(self, count: int, seed: int) -> None:
        made = series_payloads(count // 4, seed)
        made[count // 8] = (b"a", b"no JSON")
        produce(self.connection, self.topic, made)

    def committed(self) -> int:
        """Return how many records the recorder's group is through with."""
        with closing(KafkaAdminClient(bootstrap_servers=self.broker)) as admin:
            group = f"{self.group}-recorder"
            return sum(at.offset for at in admin.list_group_offsets({group: None})[group].values())

    def expected(self) -> dict[TopicPartition, list[Row]]:
        """Return all accepted rows that the topic holds, but for whether they are late."""
        decoder, found = decoder_of(SERIES, FEATURES), {}  # type: Any, dict[TopicPartition, list[Row]]
        for records in KafkaLog(self.connection, self.topic).read():
            batch, _ = decoder.decode(records)
            columns = (batch.offset_N, batch.place_in_record_N, batch.published_ms_N, batch.time_ms_N)
            numbers = zip(*(column.tolist() for column in columns), strict=True)
            values = [value.tobytes() for value in batch.values_NF]
            rows = [(*row, name, each) for row, name, each in zip(numbers, batch.series, values, strict=True)]
            found.setdefault(records.partition, []).extend(rows)
        return found

    def found(self) -> dict[TopicPartition, list[Row]]:
        """Return what a reader finds; a gap is an error."""
        snapshots = StoredSnapshots(ObjectStorage(load_settings(self.config).storage))
        found: dict[TopicPartition, list[Row]] = {}
        for rows in snapshots.read("machines", 0, 2**62, lambda gap: pytest.fail(str(gap)), FEATURES):
            found.setdefault(rows.partition, []).extend(row[:4] + row[5:] for row in told(rows))
        return found

    def ask(self, path: str) -> Any:
        """Return what it answers; nothing where it does not say 200, or nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return text if path == "/metrics" else json.loads(text)

    @contextmanager
    def recording(self) -> Iterator[Running]:
        with Running(self.config, "warning", "record") as running:
            yield running


def test_a_challenger_learns_from_what_was_recorded(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """The topic may have forgotten it by then."""
    deployed = Deployed(tmp_path, embedded_broker, unique)
    deployed.produce(2000, 3)
    with deployed.recording() as running:
        wait_for(lambda: sum(map(len, deployed.found().values())) == 1999, running)
        running.end()
    with closing(KafkaAdminClient(bootstrap_servers=embedded_broker)) as admin:
        admin.delete_topics([deployed.topic])
    retrained = offkey("retrain", str(deployed.config), "--snapshots", "1d", "--json")
    assert retrained.returncode == 0, retrained.stderr
    told = json.loads(retrained.stdout)
    assert (told["records"], told["rejected"], told["verdict"]["rule"]) == (1999, 0, "first")
    nothing = offkey("retrain", str(deployed.config), "--snapshots", "1ms")
    assert nothing.returncode == 1
    assert "stream machines: its snapshots hold 0 rows of that time; " in only_line(nothing.stderr)
    assert offkey("retrain", str(deployed.config), "--snapshots", "long").returncode == 2


@pytest.mark.timeout(400)
def test_killed_at_any_moment_every_accepted_record_is_kept_once(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    deployed = Deployed(tmp_path, apache_broker, unique, instance_id="recorder-0")
    moments, total = random.Random(7), 0
    for life in range(4):
        with deployed.recording() as running:
            for portion in range(2):
                before = deployed.committed()
                deployed.produce(400, 10 * life + portion)
                total += 400
                wait_for(lambda before=before: deployed.committed() > before, running)  # type: ignore[misc]
            threading.Event().wait(moments.random() / 2)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(10)
    with deployed.recording() as running:
        wait_for(lambda: deployed.committed() == total, running)
        wait_for(lambda: (deployed.ask("/readyz") or {}).get("streams") == ["machines"], running)
        said = running.end()
        assert running.process.returncode == 0, said
    expected = deployed.expected()
    assert deployed.found() == expected
    assert sum(map(len, expected.values())) == total - 8


@pytest.mark.timeout(400)
def test_it_tells_how_it_is_and_stops_when_it_is_told(
    any_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    deployed = Deployed(tmp_path, any_broker, unique)
    settings = json.loads(deployed.config.read_text())
    settings["recorder"]["file_age"] = "1h"
    settings["recorder"]["file_rows"] = 10**6
    deployed.config.write_text(json.dumps(settings))
    deployed.produce(400, 1)
    with deployed.recording() as running:
        wait_for(lambda: (deployed.ask("/readyz") or {}).get("partitions_read") == 2, running)
        open_rows = 'offkey_snapshot_rows_open{stream="machines"} 399.0'
        wait_for(lambda: open_rows in (deployed.ask("/metrics") or ""), running)
        assert deployed.ask("/healthz")["alive"]
        said = running.end()
        assert running.process.returncode == 0, said
    assert deployed.committed() == 400
    assert deployed.found() == deployed.expected()


def test_without_features_or_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    path = configured(tmp_path, streams={"machines": {"topic": "metrics"}})
    done = offkey("record", str(path))
    assert done.returncode == 2
    assert only_line(done.stderr) == (
        "stream machines: what is to be recorded is named neither by `features` nor by a model; name them, or "
        "train first with: offkey train CONFIG machines"
    )
    promote(path)
    done = offkey("record", str(path))
    assert (done.returncode, only_line(done.stderr)[:27]) == (1, "Kafka at 127.0.0.1:1: no an")


def test_a_hole_in_the_log_of_promotions_stops_no_recording_and_a_damaged_model_is_told(tmp_path: Path) -> None:
    path = configured(tmp_path, streams={"machines": {"topic": "metrics"}})
    promote(path)
    storage = ObjectStorage(load_settings(path).storage)
    StoredRegistry(storage).promote("machines", Promotion(3, "v1", 0, "test"))
    done = offkey("record", str(path))
    assert (done.returncode, only_line(done.stderr)[:27]) == (1, "Kafka at 127.0.0.1:1: no an")
    storage.put("models/machines/versions/v1/manifest.json", b"{}")
    done = offkey("record", str(path))
    assert done.returncode == 1
    assert "model machines v1: manifest.json is damaged" in only_line(done.stderr)


def test_other_features_than_those_recorded_are_refused(tmp_path: Path) -> None:
    from tests.snapshots import write

    path = configured(tmp_path)
    write(StoredSnapshots(ObjectStorage(load_settings(path).storage)), 0, 10, features=("cpu", "mem", "net"))
    done = offkey("record", str(path))
    assert done.returncode == 2
    assert only_line(done.stderr) == (
        "stream machines: its snapshots hold the features cpu, mem, net, and cpu, mem are to be recorded; all "
        "snapshots of a stream hold the same: set `features` back, or begin anew by moving snapshots/machines out "
        "of its storage"
    )


def test_another_kind_than_that_recorded_is_refused(tmp_path: Path) -> None:
    from tests.snapshots import write

    path = configured(tmp_path)
    write(StoredSnapshots(ObjectStorage(load_settings(path).storage)), 0, 10, series=False)
    done = offkey("record", str(path))
    assert done.returncode == 2
    assert only_line(done.stderr) == (
        "stream machines: its snapshots hold records of no series, and series are asked for; set `kind` back, "
        "or begin anew by moving snapshots/machines out of its storage"
    )


def test_a_stream_that_is_not_there_and_a_port_that_is_taken(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        path = configured(tmp_path, recorder={"port": taken.getsockname()[1]})
        assert "there is no stream 'other'; there are: machines" in offkey("record", str(path), "other").stderr
        done = offkey("record", str(path))
        assert done.returncode == 2
        assert only_line(done.stderr).endswith("set `metrics.host` and `recorder.port`")


def test_without_pyarrow_the_remedy_is_told(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from pipeline.cli import main; main()"
    asked = [sys.executable, "-c", code, "record", str(configured(tmp_path, recorder={"port": 0}))]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 2
    assert "pip install 'offkey[evaluate]', or 'offkey[arrow]'" in only_line(done.stderr)
