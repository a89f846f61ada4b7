"""Kills of a whole deployment, drawn from a seed: recorder, trainer, scheduler and worker, each by SIGKILL.

`python -m tests.chaos.kills SEED...` plays some by themselves; KAFKA_HOME must name a distribution of Apache Kafka.

All run as users run them, on Apache Kafka and on a folder or an object store, while records flow and an operator
rolls back what is promoted. So there is always something to train, to promote, to adopt and to lose: the first model
serves what it never saw, and a challenger beats it, for its incidents stay within the budget that the stream has.
Who was killed is started again, the trainer by its scheduler. A moment is drawn as seconds, or, on the object store, as the writing of an object: the process dies
before it learns that it has written, as between the two files of a version.

What has to hold, asked again and again while they die and once more when all has settled, of storage and topics
alone:

- Snapshots: a reader finds each accepted record of the topic once, with its values, and no gap.
- Registry: the log of promotions has no hole and nothing damaged; each version that is listed is whole by its hashes
  from the moment it is listed, so one that is half written is none; every entry names one that is there, and what
  was trained was compared with the very version before it. The champion is one, of which all who ask are told.
- Worker: all partitions have adopted the champion in the end, and alerts and dead letters are those of a run that
  nothing disturbs and that is given the log of adoptions, each once.
- No record is unaccounted for: it is in the snapshots, or a dead letter.
- The training that was asked for before all kills is done in the end.
"""

import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

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
from pipeline.fields import decoder_of
from pipeline.protocols import Message, ModelVersion, RawRecord, TopicPartition
from pipeline.snapshots import Gap
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.origin import ORIGIN, from_file
from pipeline.versions.promoting import RETRAIN, ROLLBACK, append
from tests.brokers import ApacheBroker
from tests.chaos.comparison import Chapter, Outcome, alerts_of, differences, letters_of, undisturbed
from tests.chaos.crew import WorkerProcess
from tests.chaos.object_store import LoopbackStore
from tests.chaos.payloads import good, malformed
from tests.chaos.stage import BROKER_SETTINGS
from tests.snapshots import Row, told
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, fit, series_rows

Role = Literal["recorder", "trainer", "scheduler", "worker"]
COMMANDS: Mapping[Role, str] = {"recorder": "record", "scheduler": "schedule", "worker": "worker"}
_FEATURES, _NAMES = ("cpu", "mem"), ["a", "b", "c", "d"]
_PARTITIONS = 3
_POINTS = 500
"""Of each series, before anything is started: enough to learn from."""
_LITTLE: Mapping[str, Any] = {"hidden": 16, "max_epochs": 3, "batch_windows": 256, "learning_rate": 2e-3}
"""What is learned in a moment, and well enough."""
_BUDGET = "1 per hour"
"""Of a series that has a point a minute: there are alerts to compare, and the gate holds them against no model."""
_STREAM = SERIES.model_copy(update={"alerts": AlertSettings(budget=_BUDGET)})
_BACKOFF_S = 0.3
_SESSION_S = 5.0
_WRITES: Mapping[Role, tuple[str, ...]] = {
    "recorder": (r"/snapshots/.*\.parquet$", r"/snapshots/_begun|/_begun/"),
    "trainer": (r"versions/[^/]+/model\.", r"versions/[^/]+/manifest\.", r"/promotions/", r"/unfinished/"),
    "scheduler": (r"versions/[^/]+/model\.", r"/promotions/", r"/schedule/"),
    "worker": (r"/adoptions/", r"/checkpoints/"),
}
"""What each role writes, or what is written on its behalf."""
_LONGEST_S = 15.0
"""A kill that waits for an object to be written comes so late at most."""
_LOOK_S = 2.0
_DEADLINE_S = 180.0
_ASKED_AGAIN_S = 400.0
"""A training that failed is tried again after five minutes."""
_DAY_MS = 86_400_000


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


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    storage: Literal["folder", "store"]
    named: bool
    delivery: Literal["at_least_once", "exactly_once"]
    chains: tuple[tuple[Kill, ...], tuple[Kill, ...]]
    """Kills one behind the other; both chains at the same time."""

    def __str__(self) -> str:
        chains = "; ".join(", ".join(str(kill) for kill in chain) for chain in self.chains)
        return f"{self.storage}, {self.delivery}, {'' if self.named else 'not '}named: {chains}"


def plan_of(seed: int) -> Plan:
    """Draw who is killed, and when.

    A scheduler tries again a training that was killed after five minutes only, so it dies behind its trainer.
    """
    draw = random.Random(f"kills {seed}")
    storage: Literal["folder", "store"] = "folder" if seed % 2 else "store"

    def kill(role: Role) -> Kill:
        at_write = storage == "store" and draw.random() < 0.7
        return Kill(role, draw.uniform(0.2, 7), draw.choice(_WRITES[role]) if at_write else "")

    rounds = 2 if seed % 10 else 1
    training = [kill(role) for _ in range(rounds) for role in ("trainer", "scheduler")]  # type: ignore[arg-type]
    others: list[Role] = ["recorder", "worker"] * (rounds + 1)
    draw.shuffle(others)
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once" if seed % 4 == 3 else "exactly_once"
    chains = tuple(training), tuple(kill(role) for role in others)
    return Plan(seed, storage, draw.random() < 0.7, delivery, chains)


@cache
def blind() -> Detector:
    """A model of `SERIES` that has seen nothing but noise: whatever learns from the records is nearer to them."""
    values = 5 * np.random.default_rng(3).standard_normal((3, HISTORY, 2))
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, values[i]) for i, name in enumerate("abc")}
    return fit(ModelSpec("series", _FEATURES, 8), "vanilla", _LITTLE, columns, delays=[3])


def _payloads(draw: random.Random) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Records of some series without end, a few of which are none."""
    first = 0
    while True:
        spikes = {name: [draw.randrange(5, _POINTS)] for name in _NAMES}
        values = series_rows(_NAMES, _POINTS, draw.randrange(1 << 30), spikes)
        for point in range(_POINTS):
            for number, name in enumerate(_NAMES):
                yield good(name, first + point, values[number, point].tolist())
            if draw.random() < 0.04:
                yield malformed(draw, b"bad")
        first += _POINTS


@dataclass
class Deployment:
    """Topics, storage and processes of one seed, and who is to be killed."""

    plan: Plan
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
        self._trap: dict[Kill, int] = {}
        """Kills that wait for a write."""
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
        if self.plan.named:
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
        """Kill one after the other, each at its moment; yields how long it waits."""
        for kill in chain:
            while self.pid_of(kill.role) is None:
                yield 0.05
            if kill.write:
                with self._lock:
                    self._trap[kill] = 0
                until_s = time.monotonic() + _LONGEST_S
                while kill in self._trap and time.monotonic() < until_s:
                    yield 0.05
                with self._lock:
                    if self._trap.pop(kill, None) is None:
                        continue
            else:
                yield kill.after_s
            while not self.kill(kill.role, f"{kill.after_s:.1f} s"):
                yield 0.05

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
        """Have v1 serve again, as an operator would; return whether another one did."""
        log = self.registry.log("machines")
        if log.champion is None or log.champion.version == "v1":
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
        for rows in self.snapshots.read("machines", 0, 2**62, _no_gap, _FEATURES):
            found.setdefault(rows.partition, []).extend(row[:4] + row[5:] for row in told(rows))
        for place, there in found.items():
            offsets = [row[0] for row in there]
            assert all(one < other for one, other in zip(offsets, offsets[1:], strict=False)), place
        return found

    def note(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self._begun_s:.1f} s: {what}")

    _begun_s: float = field(default_factory=time.monotonic)

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
                    del self._trap[kill]

    def _configured(self) -> Path:
        stream = _STREAM.model_dump(mode="json", exclude_unset=True)
        quick = {"architecture": "vanilla", **_LITTLE}
        settings: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": self.broker.bootstrap_servers,
                "group_id": self.group,
                "delivery": self.plan.delivery,
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


def play(deployment: Deployment) -> list[str]:
    """Play a plan to its end, and see that all of it holds; return what alerts and dead letters differ in.

    Raises:
        AssertionError: something does not hold.
    """
    draw = random.Random(f"play {deployment.plan.seed}")
    payloads, pause = _payloads(draw), threading.Event()
    bulk = [next(payloads) for _ in range(_POINTS * len(_NAMES))]
    for number, age_ms in enumerate((2 * _DAY_MS, _DAY_MS, 0)):
        # Of past days, so that small files are merged.
        deployment.produce(bulk[number * 700 : (number + 1) * 700], age_ms)
    deployment.start("recorder")
    deployment.start("worker")
    deployment.settle(
        "the history is recorded", lambda: deployment.committed(f"{deployment.group}-recorder") == len(bulk)
    )
    deployment.ask()
    deployment.start("scheduler")
    chains = [(0.0, deployment.strike(chain)) for chain in deployment.plan.chains]
    look_s = rollback_s = 0.0
    while chains:
        now_s = time.monotonic()
        going = []
        for due_s, chain in chains:
            if now_s < due_s:
                going.append((due_s, chain))
            elif (wait_s := next(chain, None)) is not None:
                going.append((now_s + wait_s, chain))
        chains = going
        deployment.look_after()
        deployment.produce([next(payloads) for _ in range(draw.randrange(1, 12))])
        if now_s >= look_s:
            deployment.look()
            look_s = time.monotonic() + _LOOK_S
        if now_s >= rollback_s:
            deployment.roll_back()
            rollback_s = time.monotonic() + draw.uniform(0.5, 3)
        pause.wait(0.1)
    return _settled(deployment)


def _settled(deployment: Deployment) -> list[str]:
    """Let all work off what is there, and see what is left behind."""
    group, scheduler = deployment.group, f"{deployment.group}-scheduler"
    deployment.settle("all are there", deployment.begun)
    deployment.settle("what was asked for is done", lambda: deployment.committed(scheduler) == 1, _ASKED_AGAIN_S)
    _end(deployment, "scheduler")
    records = deployment.records("metrics")
    total = sum(map(len, records.values()))
    deployment.settle("all is recorded", lambda: deployment.committed(f"{group}-recorder") == total)
    deployment.settle("all is scored", lambda: deployment.committed(group) == total)
    log = deployment.look()
    champion = deployment.registry.champion("machines")
    assert champion is not None
    assert champion == log.champion == StoredRegistry(ObjectStorage(deployment.url)).champion("machines")

    def serves() -> bool:
        return all(entries[-1].version == champion.version for entries in deployment.adopted(sys.maxsize).values())

    deployment.settle(f"{champion.version} serves", serves)
    for role in ("recorder", "worker"):
        _end(deployment, role)  # type: ignore[arg-type]
    _require_built_on_each_other(deployment, log)
    return _accounted(deployment, records)


def _end(deployment: Deployment, role: Role) -> None:
    """Have it stop in order."""
    process = deployment.processes[role]
    process.signal(signal.SIGTERM)
    try:
        process.process.wait(60)
        assert process.status == 0, f"{role} stopped with {process.status}: {process.text}"
        assert "Traceback" not in process.text, process.text
    finally:
        process.kill()
        deployment.forget(role)


def _require_built_on_each_other(deployment: Deployment, log: PromotionLog) -> None:
    """See that what was trained was promoted over what it was compared with."""
    for before, entry in zip(log.entries, log.entries[1:], strict=False):
        if entry.reason == RETRAIN:
            content = deployment.registry.file("machines", entry.version, ORIGIN)
            assert content is not None
            assert from_file(content).parent == before.version, entry
    trained = [entry.version for entry in log.entries if entry.reason == RETRAIN]
    assert len(set(trained)) == len(trained), "a version was promoted twice"
    assert trained, "a run without a promotion shows little"
    half = deployment.registry.unfinished("machines")
    assert not {*half} & {entry.version for entry in log.entries}
    deployment.note(f"{len(log.entries)} promotions, {len(trained)} of them trained; half versions: {len(half)}")


def _accounted(deployment: Deployment, records: Mapping[TopicPartition, list[RawRecord]]) -> list[str]:
    """See that snapshots and dead letters hold all records; return what the worker did otherwise than undisturbed."""
    decoder: Any = decoder_of(SERIES, _FEATURES)
    expected: dict[TopicPartition, list[Row]] = {}
    rejected: set[str] = set()
    for records_of in KafkaLog(deployment.connection, deployment.topics["metrics"]).read():
        batch, rejects = decoder.decode(records_of)
        columns = (batch.offset_N, batch.place_in_record_N, batch.published_ms_N, batch.time_ms_N)
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        values = [value.tobytes() for value in batch.values_NF]
        rows = [(*row, name, each) for row, name, each in zip(numbers, batch.series, values, strict=True)]
        expected.setdefault(records_of.partition, []).extend(rows)
        place = records_of.partition
        rejected |= {f"{place.topic}/{place.partition}@{reject.record.offset}" for reject in rejects}
    found = deployment.recorded()
    for place in sorted(expected.keys() | found.keys()):
        _require_same(deployment, place, expected.get(place, []), found.get(place, []))
    of = {kind: [each for log in deployment.records(kind).values() for each in log] for kind in ("alerts", "dead")}
    letters = letters_of(of["dead"])
    assert {letter.id for letter in letters} == rejected
    total = sum(map(len, records.values()))
    assert sum(map(len, found.values())) + len(rejected) == total, "a record is unaccounted for"
    deployment.note(f"{total} records, {len(rejected)} of them rejected, {len(of['alerts'])} alerts")
    payments = TopicPartition(f"payments-{deployment.suffix}", 0)
    logs: dict[TopicPartition, list[RawRecord]] = {**records, payments: []}
    for place in deployment.places:
        logs.setdefault(place, [])
    nothing = dict.fromkeys(logs, 0)
    versions = {version: partial(deployment.versions.__getitem__, version) for version in deployment.versions}
    chapter = Chapter(logs, nothing, nothing, deployment.adopted(0))
    wanted = replace(undisturbed(chapter, versions, _STREAM), state={})
    assert wanted.alerts, "a run without alerts shows nothing"
    left = Outcome(alerts_of(of["alerts"]), letters)
    return differences(wanted, left, exactly_once=deployment.plan.delivery == "exactly_once")


def _require_same(deployment: Deployment, place: TopicPartition, wanted: list[Row], there: list[Row]) -> None:
    """See that snapshots hold a partition's rows; else tell which they do not, and which files are about them."""
    if wanted == there:
        return
    lost, more = (sorted({*one} - {*other}) for one, other in ((wanted, there), (there, wanted)))
    offsets = [row[0] for row in (*lost, *more)]
    names = [
        file.name
        for unit in deployment.snapshots.units("machines")
        for file in unit.files
        if unit.topic.partition == place and any(unit.covered.begin <= at < unit.covered.end for at in offsets)
    ]
    told = [f"{place}: snapshots lack {len(lost)} rows, hold {len(more)} that the topic does not"]
    raise AssertionError("\n".join([*told, *map(str, lost[:9]), "---", *map(str, more[:9]), *names]))


def _no_gap(gap: Gap) -> None:
    raise AssertionError(f"a gap in the snapshots: {gap}")


def run(seed: int, broker: ApacheBroker, folder: Path) -> tuple[Deployment, list[str]]:
    """Play a seed on a broker; return what has happened, and the differences."""
    plan = plan_of(seed)
    with ExitStack() as opened:
        store = opened.enter_context(closing(LoopbackStore())) if plan.storage == "store" else None
        opened.enter_context(patch.dict("os.environ", store.environment if store is not None else {}))
        deployment = Deployment(plan, broker, folder, f"{seed}-{uuid.uuid4().hex[:6]}", store)
        opened.enter_context(closing(deployment))
        try:
            found = play(deployment)
        except AssertionError as error:
            raise AssertionError(f"{report(deployment)}\n{error}") from error
    return deployment, found


def report(deployment: Deployment) -> str:
    """Return what was planned and what has happened."""
    trained = [line for line in deployment.said_by_schedulers if "pipeline.scheduler: " in line]
    return "\n".join([f"seed {deployment.plan.seed}: {deployment.plan}", *deployment.told, *trained])


def summary(deployment: Deployment, found: list[str], took_s: float) -> str:
    """Return a run in one line."""
    killed = ", ".join(f"{role} {count}" for role, count in sorted(deployment.killed.items()))
    last = "; ".join(line.partition(": ")[2] for line in deployment.told[-2:])
    verdict = "DIFFERS" if found else "as undisturbed"
    plan = deployment.plan
    return f"kills {plan.seed}: {verdict}; {plan.storage}, {plan.delivery}; killed {killed}; {last}; {took_s:.0f} s"


def main() -> int:
    failed = 0
    folder = tempfile.mkdtemp(prefix="offkey-kills-")
    with ExitStack() as opened:
        broker_folder = Path(folder) / "broker"
        broker_folder.mkdir()
        broker = opened.enter_context(closing(ApacheBroker(broker_folder, rights=True, settings=BROKER_SETTINGS)))
        for seed in [int(text) for text in sys.argv[1:]] or [0]:
            begun_s = time.monotonic()
            place = Path(folder) / f"kills-{seed}"
            place.mkdir()
            try:
                deployment, found = run(seed, broker, place)
            except AssertionError as error:
                print(error, flush=True)
                failed += 1
                continue
            if found:
                print(report(deployment), *found, sep="\n", flush=True)
                failed += 1
            print(summary(deployment, found, time.monotonic() - begun_s), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
