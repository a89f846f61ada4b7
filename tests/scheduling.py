"""A scheduler in memory: a broker with the control topic, storage with its log of promotions, trainings that end as
a test says, and clocks that it sets."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import REGISTRY

from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryBroker, MemorySource
from pipeline.connectors.registry import StoredRegistry
from pipeline.control import Request, message_of
from pipeline.due_trainings import Cause, Task
from pipeline.protocols import TopicPartition
from pipeline.scheduler import Scheduler, SchedulerOptions
from pipeline.training_process import Ended
from pipeline.versions.log import Promotion
from tests.snapshots import FailingStorage

TOPIC = "control"
PLACE = TopicPartition(TOPIC, 0)
AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
REFUSED = Ended(0, {"version": None, "verdict": {"accepted": False, "reasons": ["not better"]}}, "")
FAILED = Ended(1, None, "storage is away")
NO_DRIFT = Ended(0, {"drift": {"why": "alike", "probability": 0.4, "shifted": 0.0}}, "")
LOST = Ended(1, {"error": "PromotionLost"}, "someone else has promoted another one meanwhile")
MISTAKE = Ended(2, None, "no such architecture")
FIRST, SCHEDULE, DRIFT, REQUEST = (
    ("machines", cause) for cause in (Cause.FIRST, Cause.SCHEDULE, Cause.DRIFT, Cause.REQUEST)
)


def runs(cause: str, outcome: str, stream: str = "machines") -> float:
    labels = {"stream": stream, "cause": cause, "outcome": outcome}
    return REGISTRY.get_sample_value("offkey_retrain_runs_total", labels) or 0.0


@dataclass
class MemoryTraining:
    """A training that runs until a test says how it ends; see `pipeline.training_process`."""

    task: Task
    end: Ended | None = None
    memory: int | None = 0
    killed: bool = False

    def ended(self) -> Ended | None:
        return self.end

    def memory_bytes(self) -> int | None:
        return self.memory

    def kill(self) -> None:
        self.killed = True


@dataclass
class Bench:
    """Everything outside of schedulers, which come and go."""

    retrain: dict[str, dict[str, Any]] = field(default_factory=lambda: {"machines": {"every": "24h"}})
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    storage: FailingStorage = field(default_factory=FailingStorage)
    begun: list[MemoryTraining] = field(default_factory=list)
    now: datetime = AT
    passed_s: float = 0.0
    no_room: bool = False

    def __post_init__(self) -> None:
        self.broker.create_topic(TOPIC)
        self.registry = StoredRegistry(self.storage)

    def promote(self, stream: str = "machines") -> None:
        """Put an entry into the log, as of now."""
        number = self.registry.log(stream).last_number + 1
        self.registry.promote(stream, Promotion(number, f"v{number}", int(self.now.timestamp() * 1000), "test"))

    def ask(self, stream: str = "machines") -> None:
        self.send(message_of(Request(stream, 0, "me@here"), TOPIC).value)

    def send(self, value: bytes | None) -> None:
        self.broker.append(TOPIC, value)

    def pass_time(self, **time: float) -> None:
        """Both clocks go on, as the scheduler turns: nothing stands still."""
        self.now += timedelta(**time)
        self.passed_s += timedelta(**time).total_seconds()

    def scheduler(self, session_s: float = 1e9) -> Scheduler:
        """Return a new scheduler, in a process of its own as it were.

        `session_s`: it turns once in a step of a test, however long that is.
        """

        def begin(task: Task) -> MemoryTraining:
            if self.no_room:
                raise OSError(11, "Resource temporarily unavailable")
            self.begun.append(MemoryTraining(task))
            return self.begun[-1]

        streams = {
            name: StreamSettings.model_validate({"topic": name, "retrain": retrain}).retrain
            for name, retrain in self.retrain.items()
        }
        return Scheduler(
            streams,
            MemorySource(self.broker, [TOPIC]),
            TOPIC,
            self.registry,
            self.storage,
            begin,
            SchedulerOptions(session_s),
            lambda: self.now,
            lambda: self.passed_s,
        )

    @property
    def causes(self) -> list[tuple[str, Cause]]:
        return [(each.task.stream, each.task.cause) for each in self.begun]

    def conclude(self, scheduler: Scheduler, ended: Ended | None = None) -> None:
        """End the newest training, by default with a promotion, and have the scheduler see it."""
        if ended is None:
            self.promote(self.begun[-1].task.stream)
            ended = Ended(0, {"version": "v9", "verdict": {"accepted": True, "reasons": ["better"]}}, "")
        self.begun[-1].end = ended
        scheduler.step()

    @property
    def committed(self) -> int | None:
        return self.broker.committed.get(PLACE)
