"""`offkey schedule` as its users run it, on real brokers: first models, requests, two schedulers of which one is
stopped in the middle of a training and woken later, and what it says when it cannot start."""

import contextlib
import json
import random
import re
import signal
import threading
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from models.files import from_files
from pipeline.cli_who_when import now_ms
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.stages.alerts import message
from pipeline.train import publish
from pipeline.versions.origin import ORIGIN, from_file
from tests.commands import Running, committed, configured, offkey, only_line, produce, wait_for
from tests.pipeline.stages.test_alerts import alert
from tests.snapshots import rows_of
from tests.streams import SERIES, STEP_MS, series_detector, series_rows

NAMES, POINTS = ["a", "b"], 900
QUICK = {"architecture": "vanilla", "hidden": 8, "max_epochs": 2}

SLOW = {"architecture": "vanilla", "hidden": 8, "max_epochs": 10**6, "max_seconds": 6, "patience": 10**9}
"""It learns for six seconds, whatever comes of it."""


class Deployed:
    """A stream with snapshots, a control topic, and schedulers of one group."""

    def __init__(
        self, folder: Path, broker: str, unique: Callable[[str], str], partitions: int = 1, **stream: Any
    ) -> None:
        self.folder, self.broker = folder, broker
        self.topic, self.control, self.group = unique("metrics"), unique("control"), unique("group")
        self.alerts = unique("alerts")
        with closing(KafkaCluster(Connection(broker))) as cluster:
            cluster.create_topics({self.topic: 1, self.control: partitions, self.alerts: 1})
        written = SERIES.model_dump(mode="json", exclude_unset=True)
        self.stream = {**written, "topic": self.topic, "model": QUICK, "retrain": {"every": "24h"}, **stream}
        self.config, self.port = self.configured("first")
        storage = ObjectStorage(load_settings(self.config).storage)
        self.storage, self.registry, self.snapshots = storage, StoredRegistry(storage), StoredSnapshots(storage)

    def configured(self, name: str) -> tuple[Path, int]:
        """Return the configuration of one scheduler, and its port."""
        port, folder = free_port(), self.folder / name
        folder.mkdir()
        timeouts = {"session_timeout": 6, "max_poll_interval": 6}
        path = configured(
            folder,
            self.broker,
            kafka={"bootstrap_servers": self.broker, "group_id": self.group, **timeouts},
            storage=(self.folder / "storage").as_uri(),
            streams={"machines": self.stream},
            topics={"control": self.control, "alerts": self.alerts},
            scheduler={"port": port},
        )
        return path, port

    def record(self, points: int = POINTS, newest_ms: int | None = None, strange: int = 0) -> None:
        """Keep rows of the series, a point a minute each, up to now; the newest `strange` ones are higher."""
        x_STF, end_ms = series_rows(NAMES, points, 3, {}), now_ms() if newest_ms is None else newest_ms
        x_STF[:, points - strange :] += 3
        time_ms_T = end_ms - STEP_MS * np.arange(points, 0, -1)
        rows = rows_of(x_STF.transpose(1, 0, 2), time_ms_T, NAMES, place=TopicPartition(self.topic, 0))
        self.snapshots.write("machines", rows, OffsetRange(0, len(rows)), int(time_ms_T[-1]))

    @property
    def promoted(self) -> list[str]:
        """Versions by the log, oldest first; it has no hole."""
        log = self.registry.log("machines")
        assert not log.faults
        assert [entry.number for entry in log.entries] == list(range(1, len(log.entries) + 1))
        return [entry.version for entry in log.entries]

    def parents(self) -> list[str | None]:
        """Return, of each promotion, what it was compared with."""
        contents = [self.registry.file("machines", version, ORIGIN) for version in self.promoted]
        return [from_file(content).parent for content in contents if content is not None]

    def damage(self, version: str) -> None:
        """Change one byte of a version's weights."""
        name = f"models/machines/versions/{version}/model.safetensors"
        content = bytearray(self.storage.get(name) or b"")
        content[-1] ^= 1
        self.storage.put(name, bytes(content))

    def committed(self) -> int:
        return committed(self.broker, f"{self.group}-scheduler").get(self.control, 0)


def ask(port: int, path: str = "/metrics") -> str:
    """Return what a scheduler answers; "" where nobody listens or it says no."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def outcomes(port: int, cause: str) -> list[str]:
    """Return what trainings of a cause have come to, whatever the number."""
    return re.findall(rf'offkey_retrain_runs_total{{cause="{cause}",outcome="(\w+)",.*}} (?!0\.0)', ask(port))


def counted(port: int, cause: str, outcome: str) -> bool:
    return outcome in outcomes(port, cause)


def test_a_first_model_and_one_on_request(any_broker: str, unique: Callable[[str], str], tmp_path: Path) -> None:
    """Snapshots come while it runs; what is no request is passed over; a request is done when it is committed."""
    deployed = Deployed(tmp_path, any_broker, unique)
    deployed.config.write_text(json.dumps(json.loads(deployed.config.read_text()) | {"logs": {"format": "json"}}))
    deployed.record()
    produce(Connection(any_broker), deployed.control, [(None, b"what is this?")])
    with Running(deployed.config, "info", "schedule") as running:
        wait_for(lambda: deployed.promoted != [], running)
        wait_for(lambda: counted(deployed.port, "first", "promoted"), running)
        assert json.loads(ask(deployed.port, "/readyz"))["leader"]
        assert 'offkey_retrain_requests_total{outcome="unreadable"} 1.0' in ask(deployed.port)
        asked = offkey("retrain", "--now", str(deployed.config))
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout.startswith(f"machines: asked for, on topic {deployed.control}; ")
        wait_for(lambda: counted(deployed.port, "request", "refused"), running)
        wait_for(lambda: deployed.committed() == 2, running)
        assert "offkey_scheduler_leader 1.0" in ask(deployed.port)
        (first,) = deployed.promoted
        deployed.damage(first)
        assert offkey("retrain", "--now", str(deployed.config)).returncode == 0
        wait_for(lambda: counted(deployed.port, "request", "promoted"), running)
        said = running.end()
        assert running.process.returncode == 0, said
    assert "stream machines: training (first): promoted: " in said
    assert "stream machines: training (request): refused: not better: " in said
    assert len(deployed.promoted) == 2
    # Also those of the trainings, which are processes of their own.
    lines = [json.loads(line) for line in said.splitlines()]
    judged = [line for line in lines if line["logger"] == "pipeline.retrain"]
    assert [(line["stream"], line["version"]) for line in judged] == [
        ("machines", version) for version in (deployed.promoted[0], None, deployed.promoted[1])
    ]


def test_a_training_that_takes_too_much_is_killed_and_leaves_nothing_behind(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """torch alone takes more."""
    deployed = Deployed(tmp_path, embedded_broker, unique, retrain={"every": "24h", "max_memory": "100 MiB"})
    deployed.record()
    with Running(deployed.config, "info", "schedule") as running:
        wait_for(lambda: counted(deployed.port, "first", "memory_limit"), running)
        assert not psutil.Process(running.process.pid).children()
        said = running.end()
    assert "for `retrain.max_memory` is 100 MiB; it is tried again in 1 min" in said
    assert not deployed.storage.list("models/machines")


@pytest.mark.timeout(400)
def test_killed_at_any_moment_a_request_is_done_and_one_champion_serves(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    deployed = Deployed(tmp_path, apache_broker, unique, model=SLOW, retrain={})
    deployed.record()
    assert offkey("retrain", "--now", str(deployed.config)).returncode == 0
    moments = random.Random(3)
    for _ in range(4):
        with Running(deployed.config, "warning", "schedule") as running:
            wait_for(lambda: psutil.Process(running.process.pid).children() != [], running)
            (training,) = psutil.Process(running.process.pid).children()
            threading.Event().wait(8 * moments.random())
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(10)
            with contextlib.suppress(psutil.NoSuchProcess):
                training.wait(10)
        versions = deployed.promoted
        assert all(version in deployed.registry.versions("machines") for version in versions)
        assert deployed.parents() == [None, *versions[:-1]][: len(versions)]
    with Running(deployed.config, "warning", "schedule") as running:
        wait_for(lambda: deployed.committed() == 1, running)
        running.end()
    for version in deployed.promoted:
        from_files(deployed.registry.load("machines", version).files)
    assert deployed.promoted


@pytest.mark.timeout(400)
@pytest.mark.parametrize("whole", [True, False], ids=["with its training", "alone"])
def test_a_leader_that_is_stopped_and_woken_promotes_nothing_twice_and_nothing_old(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path, whole: bool
) -> None:
    """The log is the judge: each promotion was decided against the one before it, and what serves stays."""
    deployed = Deployed(tmp_path, apache_broker, unique, model=SLOW)
    deployed.record()
    second_config, second_port = deployed.configured("second")
    with Running(deployed.config, "warning", "schedule") as first:
        wait_for(lambda: bool(deployed.storage.list("models/machines/unfinished")), first)
        (training,) = psutil.Process(first.process.pid).children()
        assert training.nice() == 19
        if whole:
            training.send_signal(signal.SIGSTOP)
        first.process.send_signal(signal.SIGSTOP)
        assert not deployed.promoted
        with Running(second_config, "warning", "schedule") as second:
            wait_for(lambda: deployed.promoted != [], second)
            wait_for(lambda: "offkey_scheduler_leader 1.0" in ask(second_port), second)
            if whole:
                wait_for(lambda: counted(second_port, "first", "promoted"), second)
            before = deployed.promoted
            # What it began goes on, and is to promote on the log that it has read.
            training.send_signal(signal.SIGCONT)
            wait_for(lambda: training.status() == psutil.STATUS_ZOMBIE, second)
            assert deployed.promoted[: len(before)] == before
            first.process.send_signal(signal.SIGCONT)
            wait_for(lambda: outcomes(deployed.port, "first") != [], first)
            # Woken late in its training it may be refused by the gate before it can lose.
            assert outcomes(deployed.port, "first")[0] in (
                "lost",
                "refused",
                "stopped",
                *([] if whole else ["promoted"]),
            )
            wait_for(lambda: "offkey_scheduler_leader 0.0" in ask(deployed.port), first)
            assert offkey("retrain", "--now", str(deployed.config), "machines").returncode == 0
            wait_for(lambda: deployed.committed() == 1, second)
            assert deployed.promoted[: len(before)] == before
            if whole:
                assert len(before) == 1
            second.end()
        # The woken one takes over, and does not repeat what is done.
        wait_for(lambda: "offkey_scheduler_leader 1.0" in ask(deployed.port), first)
        said = first.end()
        assert first.process.returncode == 0, said
    versions = deployed.promoted
    assert len(set(versions)) == len(versions)
    assert deployed.parents() == [None, *versions[:-1]]


def test_a_topic_of_several_partitions_or_none_is_refused(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    deployed = Deployed(tmp_path, embedded_broker, unique, partitions=2)
    said = f"topic {deployed.control} has 2 partitions, and who owns the only one trains; create it anew with one"
    for asked in (["schedule"], ["retrain", "--now"]):
        done = offkey(*asked, str(deployed.config))
        assert done.returncode == 2
        assert only_line(done.stderr).startswith(said)
    rows = json.loads(offkey("check", str(deployed.config), "--json").stdout)
    (row,) = (row for row in rows if row["what"] == "topic of requests")
    assert row["verdict"] == "wrong"
    assert row["found"].startswith(f"topic {deployed.control} has 2 partitions")
    deployed.control = unique("nowhere")
    config, _ = deployed.configured("other")
    for asked in (["schedule", str(config)], ["retrain", "--now", str(config)]):
        done = offkey(*asked)
        assert done.returncode == 2
        assert f"topic {deployed.control} is not there" in only_line(done.stderr)
    with closing(KafkaCluster(Connection(embedded_broker))) as cluster:
        cluster.create_topics({deployed.control: 1})
    rows = json.loads(offkey("check", str(config), "--json").stdout)
    (row,) = (row for row in rows if row["what"] == "topic of requests")
    assert (row["verdict"], row["found"]) == ("ok", f"{deployed.control}, partitions: 1")


def test_retraining_if_drifted(embedded_broker: str, unique: Callable[[str], str], tmp_path: Path) -> None:
    """The champion is of now: no block has passed since. Without one there is nothing to compare by."""
    deployed = Deployed(tmp_path, embedded_broker, unique)
    deployed.record()
    asked = ["retrain", str(deployed.config), "--if-drifted", "--json"]
    done = offkey(*asked)
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("--if-drifted: what has shifted is seen by snapshots; ")
    first = json.loads(offkey(*asked, "--snapshots", "30d").stdout)
    assert first["drift"] == {
        **{"drifted": True, "why": "the stream has no model yet", "probability": None, "level": None},
        **{"shifted": None, "series": 0},
    }
    assert first["version"] == deployed.promoted[-1]
    again = offkey(*asked, "--snapshots", "30d")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert set(told) == {"stream", "drift"}
    assert told["drift"]["why"].endswith("blocks have passed since training, or are kept; it takes 21 to compare")
    people = offkey("retrain", str(deployed.config), "--if-drifted", "--snapshots", "30d")
    assert people.stdout.startswith("machines: no drift, the champion stays: 0.0 blocks have passed ")


def test_incidents_are_no_drift(embedded_broker: str, unique: Callable[[str], str], tmp_path: Path) -> None:
    retrain = {"on_drift": True, "drift_block": "6h"}
    alerts = {"budget": "1 per day", "accept_after": "never"}
    deployed = Deployed(tmp_path, embedded_broker, unique, retrain=retrain, alerts=alerts)
    ended_ms, block = now_ms(), 6 * 60
    deployed.record(21 * block, ended_ms, strange=7 * block)
    trained_ms = ended_ms - STEP_MS * 21 * block
    publish("machines", series_detector(), deployed.registry, datetime.fromtimestamp(trained_ms / 1000, UTC))
    asked = ["retrain", str(deployed.config), "--if-drifted", "--dry-run", "--snapshots", "30d", "--json"]
    assert json.loads(offkey(*asked).stdout)["drift"]["drifted"]
    began_ms = ended_ms - STEP_MS * 7 * block
    with closing(KafkaPublisher(Connection(embedded_broker))) as publisher:
        for name in NAMES:
            opened = alert(incident=32 * name, series=name, opened_ms=began_ms, event_ms=began_ms)
            publisher.send(message(opened, load_settings(deployed.config).topics.alerts))
        publisher.flush(30)
    told = json.loads(offkey(*asked).stdout)["drift"]
    assert (told["drifted"], told["why"]) == (False, "no series has rows in most of the blocks")


def test_asking_at_once_takes_no_options_of_a_training(tmp_path: Path) -> None:
    for option in (["--dry-run"], ["--snapshots", "1d"]):
        done = offkey("retrain", "--now", *option, str(configured(tmp_path)))
        assert done.returncode == 2
        assert only_line(done.stderr).startswith("--now: the scheduler trains as the configuration says")
