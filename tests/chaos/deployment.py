"""A whole deployment that is killed again and again: topics, storage, its processes, and who starts them again.

All run as users run them. A moment of a kill is drawn as seconds, or, on the object store, as the writing of an
object: the process dies before it learns that it has written, as between the two files of a version.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from models.detector import Detector
from models.files import from_files, to_files
from models.spec import ModelSpec
from pipeline.adoptions import Adoption
from pipeline.alert_settings import AlertSettings
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaPublisher
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.control import Request, message_of
from pipeline.errors import PromotionLost
from pipeline.protocols import Message, ModelVersion, RawRecord, TopicPartition
from pipeline.snapshots import Gap
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.promoting import RETRAIN, ROLLBACK, append
from tests.brokers import ApacheBroker
from tests.chaos.crew import WorkerProcess
from tests.chaos.object_store import LoopbackStore
from tests.snapshots import Row, told
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, fit

Role = Literal["recorder", "trainer", "scheduler", "worker"]
COMMANDS: Mapping[Role, str] = {"recorder": "record", "scheduler": "schedule", "worker": "worker"}
STREAM = SERIES.model_copy(update={"alerts": AlertSettings(budget="1 per hour")})
"""Of a point a minute: there are alerts to compare, and the gate holds as many against no model."""
FEATURES = ("cpu", "mem")
_PARTITIONS = 3
_LITTLE: Mapping[str, Any] = {"hidden": 16, "max_epochs": 3, "batch_windows": 256, "learning_rate": 2e-3}
"""What is learned in a moment, and well enough."""
_BACKOFF_S = 0.3
_SESSION_S = 5.0
_LONGEST_S = 30.0
"""A kill that waits for an object to be written comes so late at most."""
_DEADLINE_S = 180.0


@cache
def blind() -> Detector:
    """A model of `SERIES` that has seen nothing but noise: whatever learns from the records is nearer to them."""
    values = 5 * np.random.default_rng(3).standard_normal((3, HISTORY, 2))
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, values[i]) for i, name in enumerate("abc")}
    return fit(ModelSpec("series", FEATURES, 8), "vanilla", _LITTLE, columns, delays=[3])


@dataclass(frozen=True)
class Kill:
    """One kill, and when it comes."""

    role: Role
    after_s: float
    """After the process was first seen."""
    write: str = ""
    """As soon as an object is written whose name this expression finds; ""; after so many seconds."""

    def __str__(self) -> str:
        return f"{self.role} at {self.write}" if self.write else f"{self.role} after {self.after_s:.1f} s"


@dataclass
class Deployment:
    """Topics, storage and processes of one seed, and who is to be killed."""

    named: bool
    """Worker, recorder and scheduler have an instance id that their successors have again."""
    delivery: Literal["at_least_once", "exactly_once"]
    broker: ApacheBroker
    folder: Path
    suffix: str
    store: LoopbackStore | None
    processes: dict[Role, WorkerProcess] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    """What has happened, a line each."""
    killed: dict[Role, int] = field(default_factory=dict)
    said_by_schedulers: list[str] = field(default_factory=list)
    versions: dict[str, Detector] = field(default_factory=dict)
    """Those that were listed once, as they were then."""
    begun_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.topics = {kind: f"{kind}-{self.suffix}" for kind in ("metrics", "alerts", "dead", "control")}
        self.group = f"group-{self.suffix}"
        self.connection = Connection(self.broker.bootstrap_servers)
        self.url = self.store.url if self.store is not None else (self.folder / "storage").as_uri()
        with closing(KafkaCluster(self.connection)) as cluster:
            partitions = {"metrics": _PARTITIONS}
            cluster.create_topics({name: partitions.get(kind, 1) for kind, name in self.topics.items()})
        self.places = [TopicPartition(self.topics["metrics"], number) for number in range(_PARTITIONS)]
        storage = ObjectStorage(self.url)
        self.registry, self.snapshots = StoredRegistry(storage), StoredSnapshots(storage)
        self.adoptions = StoredAdoptions(storage)
        self.registry.add(ModelVersion("machines", "v1", to_files(blind())))
        self.registry.promote("machines", Promotion(1, "v1", 0, "chaos"))
        self.config = self._configured()
        self._publisher = KafkaPublisher(self.connection)
        self._pids: set[int] = set()
        self._restart_s: dict[Role, float] = {}
        self._trap: set[Kill] = set()
        """Those that wait for a write."""
        self._lock = threading.Lock()
        if self.store is not None:
            self.store.written = self._written

    def produce(self, payloads: list[tuple[bytes | None, bytes | None]], age_ms: int = 0) -> None:
        """Write records to the topic, as if they had come so long ago."""
        at_ms = int(time.time() * 1000) - age_ms
        for key, value in payloads:
            self._publisher.send(Message(self.topics["metrics"], key, value, timestamp_ms=at_ms))
        self._publisher.flush(30)

    def ask(self) -> None:
        """Ask for a training."""
        self._publisher.send(message_of(Request("machines", 0, "chaos"), self.topics["control"]))
        self._publisher.flush(30)

    def start(self, role: Role) -> None:
        environment: dict[str, str] = dict(self.store.environment) if self.store is not None else {}
        if self.named:
            environment["OFFKEY_KAFKA__INSTANCE_ID"] = "replica-0"
        self.processes[role] = WorkerProcess(self.config, role, environment, command=COMMANDS[role])

    def pid_of(self, role: Role) -> int | None:
        """Return whom a kill would meet."""
        process = self.processes.get("scheduler" if role == "trainer" else role)
        if process is None or process.process.poll() is not None:
            return None
        if role != "trainer":
            return process.pid
        with suppress(psutil.Error):
            return next((child.pid for child in psutil.Process(process.pid).children()), None)
        return None

    def kill(self, role: Role, why: str) -> bool:
        """End it where it stands; may be called on any thread."""
        pid = self.pid_of(role)
        if pid is None:
            return False
        self._pids.add(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[role] = self.killed.get(role, 0) + 1
        self.note(f"{role} is killed: {why}")
        return True

    def strike(self, chain: tuple[Kill, ...]) -> Iterator[float]:
        """Kill one after the other, each at its moment; yields how long it waits.

        Behind a scheduler it waits until another one has had a version trained and promoted.

        Raises:
            AssertionError: none was.
        """
        for kill in chain:
            while self.pid_of(kill.role) is None:
                yield 0.05
            if kill.write:
                with self._lock:
                    self._trap.add(kill)
                until_s = time.monotonic() + _LONGEST_S
                while kill in self._trap and time.monotonic() < until_s:
                    yield 0.05
            else:
                yield kill.after_s
            with self._lock:
                is_done = kill.write and kill not in self._trap
                self._trap.discard(kill)
            while not (is_done or self.kill(kill.role, f"{_LONGEST_S if kill.write else kill.after_s:.1f} s")):
                yield 0.05
            if kill.role == "scheduler":
                yield from self._promotion()

    def _promotion(self) -> Iterator[float]:
        before, until_s = len(self.trained()), time.monotonic() + _DEADLINE_S
        while len(self.trained()) == before:
            assert time.monotonic() < until_s, f"nothing was promoted: {self.processes['scheduler'].text}"
            yield 0.3
        self.note(f"{self.trained()[-1]} is promoted")

    def trained(self) -> list[str]:
        """Return the versions that were promoted because the gate took them."""
        return [entry.version for entry in self.registry.log("machines").entries if entry.reason == RETRAIN]

    def look_after(self) -> None:
        """Start again who was killed.

        Raises:
            AssertionError: one ended for another reason.
        """
        for role in COMMANDS:
            process = self.processes.get(role)
            if process is None or process.status is None:
                continue
            assert process.pid in self._pids, f"{role} ended with {process.status}: {process.text}"
            assert "Traceback" not in process.text, process.text
            if time.monotonic() >= self._restart_s.setdefault(role, time.monotonic() + _BACKOFF_S):
                del self._restart_s[role]
                self._keep_words(role)
                self.start(role)

    def begun(self) -> bool:
        """Tell whether all are there, and the scheduler has got so far as to end in order."""
        return all(self.pid_of(role) for role in COMMANDS) and "trains " in self.processes["scheduler"].text

    def settle(self, what: str, reached: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
        """Look after all until something is reached.

        Raises:
            AssertionError: it takes too long, or one ended for a reason of its own.
        """
        until_s, pause = time.monotonic() + deadline_s, threading.Event()
        while not reached():
            self.look_after()
            tails = (f"--- {role}\n{process.text[-4000:]}" for role, process in self.processes.items())
            assert time.monotonic() < until_s, "\n".join([f"{what}: not within {deadline_s:.0f} s", *tails])
            pause.wait(0.1)

    def committed(self, group: str) -> int:
        """Return how many records a group is through with."""
        try:
            with closing(KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)) as admin:
                return sum(at.offset for at in admin.list_group_offsets({group: None})[group].values())
        except KafkaError:
            return -1

    def records(self, kind: str) -> dict[TopicPartition, list[RawRecord]]:
        """Return the committed records of a kind of topic."""
        found: dict[TopicPartition, list[RawRecord]] = {}
        for arrived in KafkaLog(self.connection, self.topics[kind]).read():
            found.setdefault(arrived.partition, []).extend(arrived.records)
        return found

    def adopted(self, offset: int) -> dict[TopicPartition, list[Adoption]]:
        """Return the logs of adoptions from an offset on."""
        with closing(KafkaCluster(self.connection)) as cluster:
            topic_id = cluster.topic(self.topics["metrics"]).id
        return {
            place: list(self.adoptions.since("machines", place, topic_id, offset).entries) for place in self.places
        }

    def roll_back(self) -> bool:
        """Have v1 serve again, as an operator would, where another one judges records; return whether it did."""
        log = self.registry.log("machines")
        in_force = {entries[-1].version for entries in self.adopted(sys.maxsize).values() if entries}
        if log.champion is None or log.champion.version == "v1" or log.champion.version not in in_force:
            return False
        try:
            append(self.registry, "machines", log, "v1", ROLLBACK, int(time.time() * 1000), by="chaos")
        except PromotionLost:
            self.note("a rollback is lost")
            return False
        self.note(f"{log.champion.version} is rolled back")
        return True

    def look(self) -> PromotionLog:
        """See that readers find what they may find at any moment; return the log of promotions."""
        log = self.registry.log("machines")
        assert not log.faults, log.faults
        assert [entry.number for entry in log.entries] == list(range(1, log.last_number + 1))
        for version in self.registry.versions("machines"):
            if version not in self.versions:
                self.versions[version] = from_files(self.registry.load("machines", version).files, version)
        assert {entry.version for entry in log.entries} <= self.versions.keys()
        self.recorded()
        return log

    def recorded(self) -> dict[TopicPartition, list[Row]]:
        """Return what a reader of the snapshots finds, but for whether it is late: each offset once, and no gap."""
        found: dict[TopicPartition, list[Row]] = {}
        for rows in self.snapshots.read("machines", 0, 2**62, _no_gap, FEATURES):
            found.setdefault(rows.partition, []).extend(row[:4] + row[5:] for row in told(rows))
        for place, there in found.items():
            offsets = [row[0] for row in there]
            assert all(one < other for one, other in pairwise(offsets)), place
        return found

    def note(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self.begun_s:.1f} s: {what}")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        self._publisher.close(0)

    def forget(self, role: Role) -> None:
        """It has ended for good."""
        self._keep_words(role)
        del self.processes[role]

    def _keep_words(self, role: Role) -> None:
        if role == "scheduler":
            self.said_by_schedulers += self.processes[role].text.splitlines()

    def _written(self, name: str) -> None:
        """Kill who waits for such an object to be written; called on the store's threads."""
        with self._lock:
            for kill in [each for each in self._trap if re.search(each.write, name)]:
                if self.kill(kill.role, f"at {name}"):
                    self._trap.remove(kill)

    def _configured(self) -> Path:
        stream = STREAM.model_dump(mode="json", exclude_unset=True)
        quick = {"architecture": "vanilla", **_LITTLE}
        settings: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": self.broker.bootstrap_servers,
                "group_id": self.group,
                "delivery": self.delivery,
                "session_timeout": _SESSION_S,
                "connect_timeout": 15,
            },
            "storage": self.url,
            "topics": {
                "alerts": self.topics["alerts"],
                "dead_letters": self.topics["dead"],
                "control": self.topics["control"],
            },
            "streams": {
                "machines": {
                    **stream,
                    "topic": self.topics["metrics"],
                    "model": quick,
                    "start": "earliest",
                    "retrain": {"every": "1s"},
                }
            },
            "metrics": {"port": 0},
            "recorder": {"port": 0, "file_age": 0.5, "file_rows": 200, "tidy_every": 1},
            "scheduler": {"port": 0},
            "worker": {"checkpoint_every": 0.5, "watch_every": 0.3},
            "device": "cpu",
        }
        config = self.folder / "offkey.yaml"
        config.write_text(json.dumps(settings, indent=1))
        return config


def _no_gap(gap: Gap) -> None:
    raise AssertionError(str(gap))
