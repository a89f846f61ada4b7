"""Where a run takes place: topics, storage, a configuration, records that come in, and what is there in the end.

What the records are is read back from the topics: a producer that was cut off may have written some twice.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kafka import KafkaAdminClient
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError
from kafka.structs import TopicPartition as ClientPartition

from models.files import to_files
from pipeline.adoptions import Adoption
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, history
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError
from pipeline.feedback import Feedback, Words, message, tombstone
from pipeline.protocols import Message, ModelVersion, RawRecord, TopicPartition
from pipeline.versions.log import Promotion
from tests.brokers import ApacheBroker
from tests.chaos.comparison import STREAMS, Chapter, Outcome, alerts_of, final_state, letters_of
from tests.chaos.crew import COMMAND, Crew
from tests.chaos.object_store import LoopbackStore
from tests.streams import FEATURES, SERIES, VERSIONS, features_detector

PARTITIONS = 3
SESSION_S = 3.0
_DEADLINE_S = 180.0
"""How long a group may take to work off what lies in its topics, on a busy machine."""
_MOST = 100_000
_MOST_LOOKS = 300
"""So often it is looked whether something is reached while faults go on, a third of a second apart."""

BROKER_SETTINGS = "group.min.session.timeout.ms=1000\n"
"""Sessions shorter than Kafka allows by itself, so that a run need not wait for long ones."""


@dataclass(frozen=True)
class Setup:
    """What is fixed for a whole run."""

    delivery: Literal["at_least_once", "exactly_once"]
    storage: Literal["folder", "store"]
    named: bool
    leave: bool
    start: Literal["earliest", "latest"]
    checkpoint_every_s: float
    max_poll_records: int


@dataclass
class Stage:
    """One run's topics, group, storage and workers on a broker that it may stop."""

    broker: ApacheBroker
    folder: Path
    setup: Setup
    suffix: str
    store: LoopbackStore | None = None
    code: str = COMMAND
    broker_is_up: bool = True
    asleep: int = 0
    """How many workers may still publish a batch again that they read before they were frozen."""
    adopting: int = 0
    """How many wait for partitions to adopt something, at least once; nobody is frozen meanwhile."""
    said: dict[str, Feedback] = field(default_factory=dict)
    """What was said of incidents and not taken back, by incident."""
    produced: int = 0
    alerts: int = 0
    """Those of an undisturbed run, once it is known."""
    moved: int = 0
    """Those of them that tell of feedback."""
    chapters: list[tuple[Chapter, tuple[int, int]]] = field(default_factory=list)
    """Those that are over, with where alerts and dead letters of the next one begin."""

    def __post_init__(self) -> None:
        self.topics = {
            kind: f"{kind}-{self.suffix}" for kind in ("metrics", "payments", "alerts", "dead", "feedback")
        }
        self.group = f"group-{self.suffix}"
        self.connection = Connection(self.broker.bootstrap_servers)
        self.url = self.store.url if self.store is not None else (self.folder / "storage").as_uri()
        self.known: dict[TopicPartition, list[RawRecord]] = {place: [] for place in self.places}
        self.first_held = dict.fromkeys(self.places, 0)
        self.made_anew: set[TopicPartition] = set()
        """Whose committed offset may be one of the topic before; nothing is in them yet."""
        self.begins = dict.fromkeys(self.places, 0)
        self.publishes = dict.fromkeys(self.places, 0)
        with closing(KafkaCluster(self.connection)) as cluster:
            kinds = self.topics.keys() - {"feedback"}
            cluster.create_topics({self.topics[kind]: self._partitions(kind) for kind in kinds})
        compacted = {"num_partitions": 1, "replication_factor": 1, "configs": {"cleanup.policy": "compact"}}
        with self.admin() as admin:
            admin.create_topics({self.topics["feedback"]: compacted})
        self._publisher = KafkaPublisher(self.connection)
        self.crew = self._crew()
        self._promote()

    @property
    def places(self) -> list[TopicPartition]:
        """The partitions that are read."""
        return [
            TopicPartition(self.topics[kind], number)
            for kind in ("metrics", "payments")
            for number in range(self._partitions(kind))
        ]

    @property
    def exactly_once(self) -> bool:
        return self.setup.delivery == "exactly_once"

    def produce(self, records: Iterable[tuple[str, bytes | None, bytes | None]]) -> None:
        """Write records to the topics."""
        portion = [Message(self.topics[kind], key, value) for kind, key, value in records]
        self._publish(portion)
        self.produced += len(portion)

    def say(self, feedback: Feedback) -> None:
        """Say something of an incident."""
        self._publish([message(feedback, self.topics["feedback"])])
        self.said[feedback.incident] = feedback

    def take_back(self, incident: str) -> None:
        """Take back what was said of an incident."""
        self._publish([tombstone(incident, self.topics["feedback"])])
        del self.said[incident]

    def words(self, stream: str) -> Words:
        """Return all that is said of a stream's incidents by now."""
        return Words({incident: each for incident, each in self.said.items() if each.stream == stream})

    def settle(self, what: str, reached: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
        """Look after the workers until something is reached.

        Raises:
            AssertionError: it takes too long, or a worker ended without a reason.
        """
        until_s, pause = time.monotonic() + deadline_s, threading.Event()
        while not reached():
            self.crew.look_after()
            self.require_no_wrong()
            if time.monotonic() > until_s:
                raise AssertionError(f"{what}: not within {deadline_s:.0f} s\n{self.crew.tails()}")
            pause.wait(0.2)

    def look_until(
        self, what: str, reached: Callable[[], bool], most_looks: int = _MOST_LOOKS, required: bool = True
    ) -> Iterator[float]:
        """Look again and again whether something is reached, past faults of storage and broker; a fault's steps.

        Raises:
            AssertionError: it takes too long, and is required.
        """
        for _ in range(most_looks):
            yield 0.3
            try:
                if not self.store_hangs and reached():
                    return
            except (TransientError, ConfigError, KafkaError):
                # Storage or broker have a fault of their own just now.
                continue
        if required:
            raise AssertionError(f"{what}: it did not come to that\n{self.crew.tails()}")

    def require_no_wrong(self) -> None:
        if self.crew.wrong:
            raise AssertionError("\n".join(self.crew.wrong))

    def caught_up(self) -> bool:
        """Tell whether the group has committed all that is there."""
        try:
            return self.committed() == self.ends()
        except KafkaError:
            # A broker that has just come back, or a group whose coordinator is being loaded.
            return False

    def committed(self) -> dict[TopicPartition, int]:
        with self.admin() as admin:
            found = admin.list_group_offsets({self.group: None})[self.group]
        return {
            TopicPartition(place.topic, place.partition): at.offset for place, at in found.items() if at.offset >= 0
        }

    def ends(self) -> dict[TopicPartition, int]:
        asked = {ClientPartition(*place): OffsetSpec.LATEST for place in self.places}
        with self.admin() as admin:
            found = admin.list_partition_offsets(asked)
        return {TopicPartition(place.topic, place.partition): at.offset for place, at in found.items()}

    def admin(self) -> "closing[KafkaAdminClient]":
        return closing(
            KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers, bootstrap_timeout_ms=15_000)
        )

    def stop_all(self) -> None:
        """End every worker in order, and see that each one does."""
        for slot in self.crew.slots:
            self.crew.stop(slot)
        self.settle("all workers stop", lambda: all(slot.process is None for slot in self.crew.slots))
        for zombie in self.crew.zombies:
            # Most have ended by themselves; one whose successor was stopped before it had joined works on.
            zombie.signal(signal.SIGTERM)
        self.settle("those that were replaced have ended", lambda: not self.crew.zombies, 60)

    def remember(self) -> None:
        """Note the records that lie in the topics now: some may be deleted later."""
        for kind in ("metrics", "payments"):
            for arrived in history(self.connection, self.topics[kind], _MOST * PARTITIONS):
                log = self.known[arrived.partition]
                for record in arrived.records:
                    if record.offset >= len(log):
                        assert record.offset == len(log), f"{arrived.partition} has no offset {len(log)}"
                        log.append(record)

    def end_chapter(self) -> None:
        """Note what the records and outputs are so far; the group has caught up, and nobody works."""
        self.remember()
        logs = {place: list(log) for place, log in self.known.items()}
        adopted = self.adopted()
        chapter = Chapter(logs, dict(self.begins), dict(self.publishes), adopted, self._heard(adopted))
        self.chapters.append((chapter, (self._end("alerts"), self._end("dead"))))
        self.publishes = {place: len(log) for place, log in logs.items()}

    def adopted(self) -> dict[TopicPartition, Sequence[Adoption]]:
        """Return what the logs of adoptions say each partition is judged by, from where its state begins on."""
        return {
            place: log
            for stream in STREAMS
            for place, log in self._adopted_since(stream, lambda place: self.begins[place]).items()
        }

    @property
    def store_hangs(self) -> bool:
        """Whether we should not ask storage anything: the answer would keep the faults from being mended."""
        return self.store is not None and self.store.delay_s > 0

    def has_adopted(self, stream: str, holds: Callable[[Adoption], bool]) -> bool:
        """Tell whether the last entry of each of a stream's partitions is such a one; raises as `adopted` does."""
        logs = self._adopted_since(stream, lambda place: sys.maxsize).values()
        return all(log and holds(log[-1]) for log in logs)

    def heard(self) -> list[int]:
        """Return how many entries that name words there are, of each chapter that is over."""
        return [
            sum(bool(entry.words) for log in chapter.adopted.values() for entry in log)
            for chapter, _ in self.chapters
        ]

    def promote_the_other(self) -> str:
        """Have the version serve that does not; return it.

        Raises:
            TransientError: storage does not answer.
        """
        registry = StoredRegistry(ObjectStorage(self.url))
        last = registry.champion("machines")
        assert last is not None
        version = next(each for each in VERSIONS if each != last.version)
        registry.promote("machines", Promotion(last.number + 1, version, 0, "chaos"))
        return version

    def begin_anew(self, places: Iterable[TopicPartition]) -> None:
        """Note that these partitions go on without their state, from where `start` says, as the topics are now."""
        ends = self.ends()
        for place in places:
            start = self.first_held[place] if self.setup.start == "earliest" else ends[place]
            self.begins[place] = self.publishes[place] = start

    def begun(self) -> bool:
        """Tell whether every partition is at least where it has to begin."""
        try:
            committed = self.committed()
        except KafkaError:
            return False
        return all(
            committed.get(place, -1) >= start and (place not in self.made_anew or committed[place] == start)
            for place, start in self.publishes.items()
        )

    def found(self, number: int) -> Outcome:
        """Return what the workers left in a chapter that is over; the state is that of now."""
        chapter, ends = self.chapters[number]
        begins = self.chapters[number - 1][1] if number else (0, 0)
        alerts, dead = (
            [record for record in self.read(kind) if begins[i] <= record.offset < ends[i]]
            for i, kind in enumerate(("alerts", "dead"))
        )
        checkpoints = StoredCheckpoints(ObjectStorage(self.url))
        state = final_state(checkpoints, {place: len(log) for place, log in chapter.logs.items()})
        return Outcome(alerts_of(alerts), letters_of(dead), state)

    def close(self) -> None:
        self.crew.close()
        with suppress(TransientError):
            self._publisher.close(0)

    def _publish(self, portion: Sequence[Message]) -> None:
        """Write to the topics; where it is not known whether it arrived, once more."""
        for last in (False, False, True):
            try:
                for each in portion:
                    self._publisher.send(each)
                self._publisher.flush(30)
            except TransientError:
                if last:
                    raise
            else:
                return

    def _adopted_since(
        self, stream: str, offset_of: Callable[[TopicPartition], int]
    ) -> dict[TopicPartition, Sequence[Adoption]]:
        adoptions, topic = StoredAdoptions(ObjectStorage(self.url)), self.topics[STREAMS[stream]]
        with closing(KafkaCluster(self.connection)) as cluster:
            topic_id = cluster.topic(topic).id
        return {
            place: adoptions.since(stream, place, topic_id, offset_of(place)).entries
            for place in self.places
            if place.topic == topic
        }

    def _heard(self, adopted: Mapping[TopicPartition, Sequence[Adoption]]) -> dict[str, list[Words]]:
        """Return what the entries of some logs name, by stream."""
        adoptions = StoredAdoptions(ObjectStorage(self.url))
        found: dict[str, list[Words]] = {}
        for stream, kind in STREAMS.items():
            logs = [log for place, log in adopted.items() if place.topic == self.topics[kind]]
            for name in sorted({entry.words for log in logs for entry in log} - {""}):
                words = adoptions.words(stream, name)
                assert words is not None, f"an entry names words that are not there: {stream} {name}"
                found.setdefault(stream, []).append(words)
        return found

    def read(self, kind: str) -> list[RawRecord]:
        """Return the committed records of a kind of topic."""
        return [each for arrived in history(self.connection, self.topics[kind], _MOST) for each in arrived.records]

    def _end(self, kind: str) -> int:
        return max((record.offset for record in self.read(kind)), default=-1) + 1

    @staticmethod
    def _partitions(kind: str) -> int:
        return PARTITIONS if kind == "metrics" else 1

    def _crew(self) -> Crew:
        setup = self.setup
        streams: dict[str, Any] = {
            name: {
                **stream.model_dump(mode="json", exclude_unset=True),
                "topic": self.topics[kind],
                "start": setup.start,
            }
            for name, kind, stream in (("machines", "metrics", SERIES), ("payments", "payments", FEATURES))
        }
        settings = {
            "kafka": {
                "bootstrap_servers": self.broker.bootstrap_servers,
                "group_id": self.group,
                "delivery": setup.delivery,
                "session_timeout": SESSION_S,
                "max_poll_records": setup.max_poll_records,
                "connect_timeout": 15,
            },
            "storage": self.url,
            "topics": {
                "alerts": self.topics["alerts"],
                "dead_letters": self.topics["dead"],
                "feedback": self.topics["feedback"],
            },
            "streams": streams,
            "metrics": {"port": 0},
            "worker": {"checkpoint_every": setup.checkpoint_every_s, "watch_every": 0.3},
            "device": "cpu",
        }
        config = self.folder / "offkey.yaml"
        config.write_text(json.dumps(settings, indent=1))
        environment: Mapping[str, str] = self.store.environment if self.store is not None else {}
        return Crew(config, setup.named, setup.leave, environment, self.code)

    def _promote(self) -> None:
        registry = StoredRegistry(ObjectStorage(self.url))
        for version, made in VERSIONS.items():
            registry.add(ModelVersion("machines", version, to_files(made())))
        registry.add(ModelVersion("payments", "v1", to_files(features_detector())))
        for stream in STREAMS:
            registry.promote(stream, Promotion(1, "v1", 0, "chaos"))
